"""A run of the suite, small: servers, client and store in processes of their own."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from benchmarks import suite
from benchmarks.bench import Bench, Plan
from benchmarks.client.task import Task
from benchmarks.measurements import Results

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


def test_the_bare_servers_inherit_nothing_that_the_service_sets_for_itself() -> None:
    """Importing it settles gRPC's listener for the process and all that it starts: an echo would be ours."""
    asked = "import sys, os, benchmarks.__main__; print('service' in sys.modules, 'GRPC_EXPERIMENTS' in os.environ)"
    bare = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}  # these tests import it
    told = subprocess.check_output([sys.executable, "-c", asked], text=True, env=bare)
    assert told.split() == ["False", "False"]
