"""One run of the suite: the workloads in turn, what each measured written down when it is done."""

import os
import platform
import subprocess
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import onnxruntime
from rich.progress import Progress

from benchmarks import bars, models
from benchmarks.bench import Bench, Plan
from benchmarks.measurements import Results
from benchmarks.stores import store_on_client_core
from benchmarks.workloads import (
    ceilings,
    closed_loop,
    crowds,
    faults,
    growth,
    many,
    open_loop,
    others,
    scale,
    shapes,
    write_modes,
)
from cellwire.cli.children import Children


@dataclass(frozen=True)
class Workload:
    """One part of the suite."""

    name: str
    what: str
    run: Callable[[Bench], Awaitable[None]]
    quick: bool = False


WORKLOADS = (
    Workload("W1", "closed loop, 1 to 512 streams", closed_loop.run, quick=True),
    Workload("W2", "open loop at 25 to 90 % of capacity", open_loop.run),
    Workload("W3", "sessions a message, 1 to 128", many.run, quick=True),
    Workload("W4", "timesteps a message, 1 to 32", shapes.timesteps),
    Workload("W5", "unary calls", shapes.unary),
    Workload("W6", "idle streams", crowds.idle),
    Workload("W7", "churn", crowds.churn),
    Workload("W8", "write-through and write-behind, the store's settings", write_modes.run, quick=True),
    Workload("W9", "a replica is killed", faults.killed),
    Workload("W10", "overload", faults.overloaded),
    Workload("W11", "one and two processes", scale.workers),
    Workload("W13", "state of 1 to 64 KB", shapes.states),
    Workload("W14", "a cluster as store", scale.cluster),
    Workload("growth", "open and stored sessions by the thousand", growth.run),
    Workload("models", "other models", shapes.models),
    Workload("ceilings", "the transport as ours, the model alone, the store alone", ceilings.run),
    Workload("baselines", "naive servers, Triton, MLServer, Ray Serve", others.run, quick=True),
)


def chosen(only: Sequence[str], quick: bool) -> list[Workload]:
    """The workloads of these names, or all; KeyError for a name that there is not."""
    by_name = {workload.name.lower(): workload for workload in WORKLOADS}
    if only:
        return [by_name[name.lower()] for name in only]
    return [workload for workload in WORKLOADS if workload.quick or not quick]


async def run(workloads: Sequence[Workload], plan: Plan, results: Results, path: Path, progress: Progress) -> None:
    """Measures them, into `results` and the file at `path`; one that fails is noted, and the next goes on."""
    results.at = datetime.now(UTC).isoformat(timespec="seconds")
    before, results.machine, results.settings = results.machine, machine(), asdict(plan)
    if results.measurements:  # some of another commit stay
        commits = dict.fromkeys((*str(before["commit"]).split(", "), str(results.machine["commit"])))
        results.machine["commit"] = ", ".join(commits)
    whole = progress.add_task("suite", total=len(workloads))
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        Children() as children,
        store_on_client_core(children) as store,
    ):
        bench = Bench(plan, results, children, Path(directory), store, progress)
        models.write(bench.models)
        for workload in workloads:
            progress.update(whole, description=f"{workload.name}: {workload.what}")
            results.forget(workload.name)
            bench.begin(workload.name)
            try:
                await workload.run(bench)
            except Exception as failure:
                bench.fail("", failure, traceback.format_exc())
            if workload.name not in bench.failed:
                results.done.append(workload.name)
            results.ratios, results.figures = bars.ratios(results), bars.figures(results)
            results.write(path)
            progress.advance(whole)


def machine() -> dict[str, str | int]:
    """Where it was measured."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "onnxruntime": onnxruntime.__version__,
        "commit": commit.stdout.strip(),
        "niceness": os.nice(0),
    }
