"""The long proof: `make soak`, or `python -m tests.faults.soak`. Exit status 1 if a figure misses its bar.

Example: python -m tests.faults.soak --seed 7 --minutes 20 --json build/soak.json
"""

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.faults import checker, gaps, growth, report
from tests.faults.history import History
from tests.faults.report import Figure
from tests.faults.storm import storm
from tests.faults.tally import BARS, BOTH, Tally
from tests.harness import small_models

PHASES = ("storm", "gaps", "overload", "growth")
SIZE = 2
KILLS, CLIENTS = 20, 24


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.soak",
        description="Proves the promise under faults and measures what it costs. Exit status 1 over a bar.",
        epilog="example: python -m tests.faults.soak --seed 7 --minutes 20 --json build/soak.json",
    )
    parser.add_argument("--seed", type=int, help="of the misfortunes and the inputs; none: drawn, and shown")
    parser.add_argument("--minutes", type=float, default=25.0, help="at most for the storm (25)")
    parser.add_argument("--growth-minutes", type=float, default=10.0, help="of the sessions that go on (10)")
    parser.add_argument("--phase", choices=PHASES, action="append", help="only this one; may be given again")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--history", type=Path, help="keep what happened in the storm here, as JSON lines")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the phases: the exit status."""
    options, console = parsed(words), Console()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    began = time.monotonic()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        directory = Path(name)
        models = small_models(directory / "models")
        console.print(f"seed {seed}")
        for phase in options.phase or PHASES:
            console.print(f"[bold]{phase}[/bold]")
            if phase == "storm":
                figures += _storm(models, directory, seed, options, console)
            elif phase == "gaps":
                figures += asyncio.run(_gaps(models, directory))
            elif phase == "overload":
                figures += asyncio.run(_overload())
            else:
                figures += asyncio.run(_growth(models, directory, options.growth_minutes * 60))
    report.show(console, figures)
    if options.json:
        report.write(options.json, seed, (time.monotonic() - began) / 60, figures)
    return int(any(figure.is_over for figure in figures))


def _storm(models: Path, directory: Path, seed: int, options: argparse.Namespace, console: Console) -> list[Figure]:
    with History(options.history) as history:
        tally = Tally(history)
        end = time.monotonic() + options.minutes * 60
        columns = TextColumn("{task.description:34}"), BarColumn(), TextColumn("{task.completed:,.0f}")
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            enough = _until_reached(tally, progress, end)
            asyncio.run(storm(models, directory, history, seed, enough, size=SIZE))
    counts = tally.update()
    violations = checker.check(history.events, models)
    for violation in violations[:20]:
        console.print(f"[red]{type(violation).__name__}[/red] {violation}")
    for violation in violations[:1]:
        for event in checker.excerpt(history.events, violation):
            console.print_json(json.dumps(event), indent=None)
    kinds = [type(violation) for violation in violations]
    doubles, silent = kinds.count(checker.DoubleAdvance), kinds.count(checker.SilentLoss)
    barred = [Figure(name, counts[name], least=bar) for name, bar in BARS.items()]
    barred += [Figure(name, counts[name], least=1) for name in BOTH]
    others = sorted(set(counts) - set(BARS) - set(BOTH))
    return [
        *barred,
        *(Figure(name, counts[name]) for name in others),
        Figure("double advances", doubles, most=0),
        Figure("silent losses", silent, most=0),
        Figure("other violations", len(violations) - doubles - silent, most=0),
    ]


def _until_reached(tally: Tally, progress: Progress, end: float) -> Callable[[], bool]:
    rows = {name: progress.add_task(name, total=bar) for name, bar in BARS.items()}

    def enough() -> bool:
        reached = tally.reached()
        for name, row in rows.items():
            progress.update(row, completed=tally.counts[name])
        return reached or time.monotonic() > end

    return enough


async def _gaps(models: Path, directory: Path) -> list[Figure]:
    replica = await gaps.when_replicas_die(models, directory, KILLS, CLIENTS)
    failover = await gaps.when_sentinel_fails_over(models, directory, CLIENTS)
    return [
        Figure("gap when a replica is killed, p99", gaps.percentile(replica, 0.99), most=1.0, unit="s"),
        Figure("gap when a replica is killed, median", gaps.percentile(replica, 0.5), unit="s"),
        Figure("gap of a failover by Sentinel", max(failover), most=gaps.DOWN_AFTER + 3.0, unit="s"),
    ]


async def _overload() -> list[Figure]:
    command = (sys.executable, "-m", "benchmarks.overload", "--json", "--seconds", "10")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the overload benchmark failed")
    measured = json.loads(out)
    return [
        Figure("goodput at 4x overload, of that at 1x", measured["ratio"], least=0.9),
        Figure("the same with streams that send on when refused", measured["ratio_regardless"]),
        Figure("goodput at 1x", measured["goodput_1x"], unit="/s"),
        Figure("longest health check", measured["health_seconds"], most=0.1, unit="s"),
    ]


async def _growth(models: Path, directory: Path, seconds: float) -> list[Figure]:
    grown = await growth.measure(models, directory, seconds)
    return [
        Figure("sessions at the end", grown["sessions"], least=1000),
        Figure("growth of memory, a share", round(grown["rss"], 4), most=0.02),
        Figure("growth of descriptors", grown["descriptors"], most=2),
        Figure("growth of tasks", grown["tasks"], most=20),
        Figure("growth of keys", grown["keys"], most=0),
    ]


if __name__ == "__main__":
    sys.exit(main())
