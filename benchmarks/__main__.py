"""What a timestep costs, against the bare transport: `make bench-quick`, or `python -m benchmarks`.

Every server runs in turn on a core of its own; the client, the same code for all, and Redis share the other one. The
CPU of the server and of Redis is read from /proc over the time that counts.
"""

import asyncio
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import onnx
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import servers
from benchmarks.load import INPUTS, MODEL
from benchmarks.servers import CLIENT_CORE, Server
from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from models import cells

HIDDEN, OUTPUTS = 128, 8
STREAMS = (32, 128)
CONNECTIONS = 8

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Measured:
    """One server under one load."""

    server: str
    streams: int
    connections: int
    steps_per_second: float
    server_us: float
    """Microseconds of CPU a timestep."""
    redis_us: float
    p50_ms: float
    p99_ms: float
    reply_bytes: int


@dataclass(frozen=True)
class Scene:
    """What is running."""

    store: EmbeddedStore
    directory: Path
    children: Children

    def environment(self, **settings: str) -> dict[str, str]:
        """Of a replica of ours."""
        values = {
            "store_url": self.store.url,
            "models": str(self.directory / "models"),
            "port": "0",
            "admin_port": "0",
            "log_level": "WARNING",
            **settings,
        }
        return {f"CELLWIRE_{name.upper()}": value for name, value in values.items()}


def write_model(repository: Path) -> None:
    """An LSTM of 128 units with 40 inputs and 8 outputs."""
    version = repository / MODEL / "1"
    version.mkdir(parents=True)
    onnx.save(cells.build(cells.draw("lstm", INPUTS, HIDDEN, outputs=OUTPUTS)), version / "model.onnx")
    (repository / MODEL / "model.yaml").write_text("{}\n")


async def measure(
    scene: Scene, server: Server, name: str, dialect: str, streams: int, connections: int, warm: float, seconds: float
) -> Measured:
    """A closed loop of so many streams."""
    words = [server.target, dialect, str(streams), str(connections), str(warm), str(seconds)]
    pipe = asyncio.subprocess.PIPE
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.load", *words, stdin=pipe, stdout=pipe
    )
    servers.pin(client.pid, CLIENT_CORE)
    assert client.stdout
    try:
        if await client.stdout.readline() != b"begun\n":
            raise RuntimeError("the client failed")
        redis = Server("", scene.store.pid)
        before = server.cpu_seconds(), redis.cpu_seconds()
        told = json.loads(await client.stdout.readline())
        after = server.cpu_seconds(), redis.cpu_seconds()
        await client.communicate(b"")  # ends its standard input
    finally:
        if client.returncode is None:
            client.kill()
    steps = told["steps"]
    ours, theirs = (1e6 * (late - early) / steps for early, late in zip(before, after, strict=True))
    rate = steps / told["seconds"]
    return Measured(name, streams, connections, rate, ours, theirs, told["p50_ms"], told["p99_ms"], told["reply_bytes"])


async def suite(runs: int, seconds: float, progress: Progress) -> list[Measured]:
    """Each load on each server, again and again, so that a machine that drifts takes all of them along."""
    results: list[Measured] = []
    loads = [(streams, connections) for streams in STREAMS for connections in (CONNECTIONS, streams)]
    task = progress.add_task("measuring", total=runs * len(loads) * 2)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Children() as children, EmbeddedStore(children) as store:
        scene = Scene(store, Path(name), children)
        servers.pin(store.pid, CLIENT_CORE)
        write_model(scene.directory / "models")
        ours = await servers.start(children, ["service"], scene.directory, "ours", scene.environment())
        reply_bytes = 0
        echo: Server | None = None
        for _ in range(runs):
            for streams, connections in loads:
                progress.update(task, description=f"cellwire, {streams} streams, {connections} connections")
                found = await measure(scene, ours, "cellwire", "cellwire", streams, connections, 1.0, seconds)
                results.append(found)
                progress.advance(task)
                reply_bytes = reply_bytes or found.reply_bytes
                if echo is None:
                    sized: Mapping[str, str] = {"BENCHMARKS_REPLY_BYTES": str(reply_bytes)}
                    echo = await servers.start(children, ["benchmarks.echo"], scene.directory, "echo", sized)
                progress.update(task, description=f"bare echo, {streams} streams, {connections} connections")
                results.append(await measure(scene, echo, "echo", "echo", streams, connections, 1.0, seconds))
                progress.advance(task)
    return results


def ratios(results: list[Measured]) -> dict[str, float]:
    """Medians of the runs; of 8 connections and one per stream the worse counts."""

    def median(server: str, streams: int, connections: int) -> float:
        return statistics.median(
            each.server_us
            for each in results
            if (each.server, each.streams, each.connections) == (server, streams, connections)
        )

    told = {}
    for streams in STREAMS:
        each = [
            median("cellwire", streams, connections) / median("echo", streams, connections)
            for connections in (CONNECTIONS, streams)
        ]
        told[f"cpu_vs_echo_{streams}"] = round(max(each), 3)
    return told


def show(console: Console, results: list[Measured], told: Mapping[str, float]) -> None:
    table = Table(title="CPU a timestep, medians")
    for column in ("server", "streams", "connections", "steps/s", "server us", "redis us", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "server" else "right")
    keys = dict.fromkeys((each.server, each.streams, each.connections) for each in results)
    for key in sorted(keys, key=lambda key: (key[1], key[2], key[0])):
        runs = [each for each in results if (each.server, each.streams, each.connections) == key]
        columns = ("steps_per_second", "server_us", "redis_us", "p50_ms", "p99_ms")
        medians = [statistics.median(getattr(each, column) for each in runs) for column in columns]
        table.add_row(*map(str, key), f"{medians[0]:.0f}", *(f"{value:.1f}" for value in medians[1:]))
    console.print(table)
    for name, value in told.items():
        console.print(f"{name:24}{value:.2f}")


@app.command(epilog="Example: python -m benchmarks --runs 3 --seconds 5 --json benchmarks/results/latest.json")
def main(
    runs: Annotated[int, typer.Option(help="Times that everything is measured.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 5.0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every figure and ratio there.")] = None,
) -> None:
    """Measure what a timestep costs the server, against a bare echo with the same messages and connections."""
    with Progress(console=Console(stderr=True)) as progress:
        results = asyncio.run(suite(runs, seconds, progress))
    told = ratios(results)
    show(Console(), results, told)
    if json_path:
        machine = {"python": platform.python_version(), "machine": platform.machine()}
        report = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "ratios": told,
            "measured": [asdict(each) for each in results],
        }
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    app()
