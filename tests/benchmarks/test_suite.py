"""A run of the suite, small: servers, client and store in processes of their own."""

import io
import os
import platform
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

from benchmarks import servers, suite
from benchmarks.__main__ import app
from benchmarks.bench import Bench, Plan
from benchmarks.client.task import Task
from benchmarks.measurements import Results
from benchmarks.workloads.others import TRIES, in_turns

PLAN = Plan(runs=1, seconds=0.1, warm=0.1)
CHURN = Task(program="churn", streams=4, sessions=8, steps_a_session=3)


async def measured(bench: Bench) -> None:
    async with bench.replica(load="bench") as ours, bench.echo() as echo:
        await bench.measure(ours, 0, CHURN, kind="some")
        await bench.measure(echo, 0, CHURN)


async def test_a_workload_is_measured_and_another_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    async def broken(bench: Bench) -> None:
        raise ValueError(tmp_path)

    path, lines = tmp_path / "results.json", io.StringIO()
    workloads = [suite.Workload("broken", "raises", broken), suite.Workload("W7", "churn", measured)]
    await suite.run(workloads, PLAN, Results(), path, Progress(console=Console(file=lines)))
    results = Results.read(path)
    assert results.done == ["W7"], lines.getvalue()
    assert results.skipped == {"broken": "it failed: ValueError"}
    ours, echo = results.measurements
    assert (ours.server, ours.case) == ("cellwire", {"streams": 4, "connections": 4, "kind": "some"})
    assert echo.server == "echo"
    assert ours.values["steps_per_second"] == pytest.approx(3 * ours.values["sessions_per_second"], rel=1e-3)
    assert ours.values["batch"] >= 1
    assert ours.values["store_bytes"] > 1000
    assert str(tmp_path) not in path.read_text()


async def run(tmp_path: Path, work: Callable[[Bench], Awaitable[None]]) -> tuple[Results, str]:
    """A suite of this work alone: its results, and what it said."""
    results, lines = Results(), io.StringIO()
    console = Console(file=lines, width=200)
    await suite.run([suite.Workload("W", "", work)], PLAN, results, tmp_path / "r.json", Progress(console=console))
    return results, lines.getvalue()


async def test_a_baseline_that_crashes_is_started_again_and_takes_no_other_load_along(tmp_path: Path) -> None:
    """It crashes each time under eight streams, and the first time under four."""
    loads = [Task(streams=4, connections=4), Task(streams=8, connections=8), Task(streams=2, connections=2)]
    crashes = iter([True, False, *[True] * TRIES, False])

    @asynccontextmanager
    async def fragile(bench: Bench) -> AsyncIterator[servers.Server]:
        async with bench.echo() as server:
            if next(crashes):
                os.kill(server.pid, signal.SIGKILL)
            yield server

    async def work(bench: Bench) -> None:
        async with bench.replica(load="bench") as ours:
            await in_turns(bench, ours, "fragile", lambda: fragile(bench), loads)

    results, said = await run(tmp_path, work)
    assert [(each.server, each.case["streams"]) for each in results.measurements] == [
        ("echo", 4),
        ("cellwire", 4),
        ("echo", 2),
        ("cellwire", 2),
    ], said
    assert results.skipped == {"W fragile, 8 streams on 8 connections, turn 1": "it failed: ClientFailed"}
    assert said.count("fragile once more") == 1 + TRIES - 1
    assert results.done == []  # it is tried again by --continue


def test_a_run_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    earlier = Results(settings=asdict(PLAN), machine={"python": platform.python_version()})
    earlier.add("W7", "cellwire", 0, {}, server_us=1.0)
    earlier.write(path)
    before = path.read_bytes()
    same = ["--runs", "1", "--seconds", "0.1", "--warm", "0.1"]
    for other in (["--runs", "2"], ["--seconds", "0.2"], ["--quick"]):
        told = CliRunner().invoke(app, ["run", "--only", "W7", "--continue", "--json", str(path), *same, *other])
        assert (told.exit_code, "of other settings" in told.output) == (2, True)
    assert path.read_bytes() == before


def test_the_bare_servers_inherit_nothing_that_the_service_sets_for_itself() -> None:
    """Importing it settles gRPC's listener for the process and all that it starts: an echo would be ours."""
    asked = "import sys, os, benchmarks.__main__; print('service' in sys.modules, 'GRPC_EXPERIMENTS' in os.environ)"
    bare = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}  # these tests import it
    told = subprocess.check_output([sys.executable, "-c", asked], text=True, env=bare)
    assert told.split() == ["False", "False"]
