"""MLServer with its gRPC door: settings and command line."""

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import servers
from benchmarks.bench import Bench
from benchmarks.servers import Server


@asynccontextmanager
async def mlserver(bench: Bench, environment: Path) -> AsyncIterator[Server]:
    """MLServer, installed in the environment; it serves the model `bench`, without workers of its own."""
    folder = bench.directory / "mlserver"
    folder.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("runtime.py"), folder)
    port = servers.free_port()
    settings = {
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": servers.free_port(),
        "metrics_port": servers.free_port(),
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "use_structured_logging": False,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "bench", "implementation": "runtime.Runtime", "parameters": {"uri": str(bench.model("bench"))}}
    (folder / "model-settings.json").write_text(json.dumps(model))
    command: list[str | Path] = [environment / "bin" / "mlserver", "start", folder]
    log = bench.log("mlserver")
    variables = {"PYTHONPATH": str(folder)}
    async with servers.started(bench.children, "mlserver", "v2_unary", command, log, variables, port=port) as server:
        yield server
