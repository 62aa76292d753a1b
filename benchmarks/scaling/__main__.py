"""The command line of scaling on paper: `python -m benchmarks.scaling --help`."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import LATEST
from benchmarks.measurements import Results
from benchmarks.scaling import fit, page, plan, slices

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@app.command(
    epilog="Example: python -m benchmarks.scaling --results build/some.json --speed 3 --json. "
    "Exit codes: 0 done; 2 wrong usage, or a run that lacks what the fit needs."
)
def main(
    results_path: Annotated[Path, typer.Option("--results", help="What `python -m benchmarks run` wrote.")] = LATEST,
    as_json: Annotated[
        bool, typer.Option("--json", help="Every figure on standard output, instead of a table.")
    ] = False,
    page_path: Annotated[Path | None, typer.Option("--page", help="Make this page and its picture.")] = None,
    replicas: Annotated[int, typer.Option(help="Of the slice that is simulated.", min=1)] = 10,
    shards: Annotated[int, typer.Option(help="Of that slice; one shard is simulated, too.", min=1)] = 2,
    seconds: Annotated[float, typer.Option(help="That are simulated.", min=0.1)] = 2.0,
    speed: Annotated[float, typer.Option(help="Of a core, against the one that was measured.", min=0.01)] = 1.0,
) -> None:
    """Fit the costs of a run, say what 10 thousand to 100 million sessions need, and simulate a slice of it."""
    try:
        results = Results.read(results_path)
        costs = fit.costs(results)
    except (OSError, json.JSONDecodeError, fit.TooFew) as why:
        raise typer.BadParameter(str(why), param_hint="--results") from None
    limits = replace(plan.Limits(), speed=speed)
    counts = dict.fromkeys((shards, 1))
    simulated = [row for count in counts for row in slices.grid(costs, replicas, count, seconds)]
    measured = slices.against_measured(costs, results, seconds)
    needs = [plan.need(costs, load, limits) for load in page.loads()]
    if page_path:
        page.write(results, costs, limits, simulated, measured, page_path)
    if as_json:
        told = {"costs": costs, "limits": limits, "needs": needs, "slice": simulated, "measured": measured}
        print(json.dumps(told, default=asdict, indent=1))
    else:
        show(needs)
    if page_path:
        Console(stderr=True).print(f"written: {page_path}", highlight=False)


def show(needs: list[plan.Need]) -> None:
    """On the terminal."""
    table = Table(title="Replicas and shards, in cells")
    for column in ("sessions", "steps/s each", "write-", "a message", "replicas", "shards", "binds"):
        table.add_column(column, justify="right", no_wrap=True)
    for need in needs:
        load = need.load
        table.add_row(
            f"{load.sessions:,}",
            f"{load.rate:g}",
            "behind" if load.behind else "through",
            str(fit.MANY if load.many else 1),
            f"{need.replicas:,}",
            f"{need.shards:,}",
            need.binds,
        )
    console.print(table)


if __name__ == "__main__":
    app()
