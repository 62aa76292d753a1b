"""The benchmarks' command line: `python -m benchmarks --help`."""

import asyncio
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import bars, report, suite
from benchmarks.baselines import environments
from benchmarks.bench import Plan
from benchmarks.measurements import Results

LATEST = Path(__file__).parent / "results" / "latest.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
MISSED = 1

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()


@app.command(
    epilog="Example: python -m benchmarks run --only W1 --only W3 --runs 1 --seconds 1 --json build/some.json. "
    "Exit codes: 0 measured; 1 with --bars, if a bar is not met or, in a whole run, not measured; 2 wrong usage."
)
def run(
    only: Annotated[list[str] | None, typer.Option(help="A workload by its name; may be given again.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only what the most important ratios need.")] = False,
    runs: Annotated[int, typer.Option(help="Times that everything is measured; medians count.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="Of each measurement.", min=0.1)] = 3.0,
    warm: Annotated[float, typer.Option(help="Seconds before it.", min=0.1)] = 1.0,
    idle: Annotated[int, typer.Option(help="Idle streams of W6.", min=1)] = 10_000,
    stored: Annotated[int, typer.Option(help="Stored sessions of the growth.", min=1)] = 100_000,
    json_path: Annotated[
        Path,
        typer.Option("--json", help="Every figure and ratio goes there; by default beside it under the date, too."),
    ] = LATEST,
    again: Annotated[
        bool, typer.Option("--continue", help="Keep what the file has; measure what it lacks, or --only.")
    ] = False,
    needs_bars: Annotated[bool, typer.Option("--bars", help="Exit with 1 unless every bar is met.")] = False,
) -> None:
    """Measure, and show each ratio and figure with its bar."""
    try:
        workloads = suite.chosen(only or [], quick)
    except KeyError as name:
        names = ", ".join(workload.name for workload in suite.WORKLOADS)
        raise typer.BadParameter(f"no workload {name}; there are {names}", param_hint="--only") from None
    results = Results.read(json_path) if again and json_path.exists() else Results()
    if again and not only:
        workloads = [workload for workload in workloads if workload.name not in results.done]
    plan = Plan(runs, seconds, warm, quick, idle, stored)
    if results.measurements and (results.settings, results.machine["python"]) != (
        asdict(plan),
        platform.python_version(),
    ):
        raise typer.BadParameter("the file is of other settings or another Python", param_hint="--continue")
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        asyncio.run(suite.run(workloads, plan, results, json_path, progress))
    show(results)
    if json_path == LATEST:
        results.write(LATEST.with_name(f"{results.at[:10]}.json"))
    console.print(f"written: {json_path}", highlight=False)
    if needs_bars and unmet(results, whole=not quick and not only):
        raise typer.Exit(MISSED)


@app.command(name="show")
def show_file(json_path: Annotated[Path, typer.Argument(help="What `run` wrote.")] = LATEST) -> None:
    """Show the ratios and figures of a run with their bars."""
    show(Results.read(json_path))


@app.command(name="report")
def write_report(
    json_path: Annotated[Path, typer.Argument(help="What `run` wrote.")] = LATEST,
    page: Annotated[Path, typer.Option(help="Its pictures go into a folder beside it.")] = PAGE,
) -> None:
    """Make docs/benchmarks.md and its pictures from a run."""
    report.write(Results.read(json_path), page)
    console.print(f"written: {page}", highlight=False)


@app.command()
def baselines() -> None:
    """Install what the service is compared with, each into an environment of its own under build/."""
    for name in environments.NAMES:
        try:
            environments.install(name)
        except environments.NotHad as why:
            console.print(f"{name}: skipped: {why}", highlight=False)
        else:
            console.print(f"{name}: installed", highlight=False)


def show(results: Results) -> None:
    """On the terminal."""
    table = Table(title=f"Ratios and figures, {results.at}")
    for column in ("name", "measured", "bar", "beyond", ""):
        table.add_column(column, justify="left" if column in ("name", "") else "right", no_wrap=True)
    values = {**results.ratios, **results.figures}
    for bar in (*bars.RATIOS, *bars.FIGURES):
        value, sign = values.get(bar.name), ">=" if bar.at_least else "<="
        verdict = "-" if value is None else "[green]met[/]" if bar.met(value) else "[red]not met[/]"
        beyond = "" if bar.beyond is None else f"{bar.beyond:g}"
        measured = "" if value is None else f"{value:.3f} {bar.unit}".strip()
        table.add_row(bar.name, measured, f"{sign} {bar.bar:g}", beyond, verdict)
    console.print(table)
    for name, why in results.skipped.items():
        console.print(f"skipped: {name}: {why}", highlight=False)


def unmet(results: Results, whole: bool) -> bool:
    """Whether a bar is not met, or, of a whole run, was not measured."""
    values = {**results.ratios, **results.figures}
    measured = all(bar.name in values for bar in (*bars.RATIOS, *bars.FIGURES))
    return bool(bars.missed(values)) or (whole and not measured)


if __name__ == "__main__":
    app()
