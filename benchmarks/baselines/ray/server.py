"""Ray Serve with its gRPC door: its command line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import servers
from benchmarks.bench import Bench
from benchmarks.servers import Server


@asynccontextmanager
async def ray(bench: Bench, environment: Path) -> AsyncIterator[Server]:
    """Ray, installed in the environment, with one replica of the model."""
    port = servers.free_port()
    deployment = Path(__file__).with_name("deployment.py")
    python, model = environment / "bin" / "python", bench.model("bench")
    command: list[str | Path] = [python, deployment, model, str(port), str(servers.free_port())]
    variables = {
        "PYTHONPATH": str(deployment.parent),
        "RAY_TMPDIR": str(bench.directory),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    async with servers.started(bench.children, "ray", "ray", command, bench.log("ray"), variables) as server:
        yield server
