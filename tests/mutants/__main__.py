"""The command: every mutant of the catalogue against the tests that must catch it."""

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import STORES, Mutant, Stale
from tests.mutants.runner import Outcome, Verdict, copy, run, run_mutant

ROOT = Path(__file__).parents[2]
WIDE = 300
CONTROL_SECONDS = 900
"""For all tests together."""


class Exit(IntEnum):
    """What a program that ran this may rely on."""

    OK = 0
    SURVIVED = 1
    USAGE = 2
    STALE = 3
    CONTROL = 4


messages = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant."""

    mutant: Mutant
    outcome: Outcome

    @property
    def caught(self) -> bool:
        """A test failed by it."""
        return self.outcome.verdict is Verdict.FAILED

    @property
    def word(self) -> str:
        """For the table."""
        words = {Verdict.FAILED: "caught", Verdict.PASSED: "SURVIVED"}
        return words.get(self.outcome.verdict, self.outcome.verdict.upper())

    def facts(self) -> dict[str, Any]:
        """For machines."""
        return {
            "mutant": self.mutant.name,
            "rule": self.mutant.rule,
            "file": self.mutant.path,
            "verdict": self.word.lower(),
            "test": self.outcome.test,
            "why": self.outcome.why,
            "seconds": round(self.outcome.seconds, 1),
        }


app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)


@app.command()
def mutants(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Just this mutant; repeatable.")
    ] = None,
    store: Annotated[str, typer.Option(help=f"The kind of store: {' or '.join(STORES)}.")] = STORES[0],
    jobs: Annotated[int, typer.Option(help="Mutants tried at a time.", min=1)] = 1,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the mutants and their tests.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines.")] = False,
) -> None:
    """Show which test catches which mutant of the session protocol.

    A mutant is the service with one rule broken. Each gets a copy of the repository, in which the tests named for it
    run until one fails: then it is caught. Before that, the same tests must pass without any mutant.

    Exit codes: 0 all caught · 1 a mutant survived, or its tests could not be run · 2 wrong usage · 3 the catalogue does
    not follow the code · 4 a test fails without any mutant.

    Example: `python -m tests.mutants --only no-fence-test --json`
    """
    chosen = _chosen(only, store)
    if list_only:
        _list(chosen, as_json)
        return
    try:
        results = asyncio.run(_try(chosen, store, jobs))
    except Stale as error:
        messages.print(f"the catalogue does not follow the code: {error}")
        raise typer.Exit(Exit.STALE) from None
    except asyncio.CancelledError:
        raise typer.Exit(128 + signal.SIGTERM) from None
    if as_json:
        typer.echo(json.dumps([result.facts() for result in results], indent=2))
    else:
        _show(results)
    left = [result for result in results if not result.caught]
    for result in left:
        messages.print(f"{result.mutant.name} was not caught\n{result.outcome.output[-2000:]}")
    messages.print(f"{len(results) - len(left)} of {len(results)} mutants caught")
    if left:
        raise typer.Exit(Exit.SURVIVED)


def _chosen(only: list[str] | None, store: str) -> list[Mutant]:
    if store not in STORES:
        raise typer.BadParameter(f"{' or '.join(STORES)} expected", param_hint="--store")
    seen = {mutant.name: mutant for mutant in MUTANTS if store in mutant.stores}
    unknown = [name for name in only or () if name not in seen]
    if unknown:
        raise typer.BadParameter(f"no mutant {', '.join(unknown)} on {store} (see --list)", param_hint="--only")
    return [mutant for name, mutant in seen.items() if not only or name in only]


async def _try(chosen: Sequence[Mutant], store: str, jobs: int) -> list[Result]:
    """The control, then every mutant; in the order of the catalogue."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    turn = asyncio.Semaphore(jobs)
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=messages
    )
    with TemporaryDirectory(prefix="mutants-") as directory, progress:
        original = Path(directory)
        copy(ROOT, original)
        for mutant in chosen:
            mutant.mutated(original)
        bar = progress.add_task("no mutant", total=1 + len(chosen))
        tests = list(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
        control = await run(original, tests, store, CONTROL_SECONDS)
        if control.verdict is not Verdict.PASSED:
            messages.print(
                f"without any mutant: {control.verdict} {control.test} {control.why}\n{control.output[-4000:]}"
            )
            raise typer.Exit(Exit.CONTROL)
        progress.advance(bar)

        async def attempt(mutant: Mutant) -> Result:
            async with turn:
                progress.update(bar, description=mutant.name)
                result = Result(mutant, await run_mutant(mutant, original, store))
                messages.print(f"{result.word} {mutant.name}")
            progress.advance(bar)
            return result

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(attempt(mutant)) for mutant in chosen]
    return [task.result() for task in tasks]


def _list(chosen: Sequence[Mutant], as_json: bool) -> None:
    if as_json:
        listed = [
            {"mutant": m.name, "rule": m.rule, "file": m.path, "tests": m.tests, "stores": m.stores} for m in chosen
        ]
        typer.echo(json.dumps(listed, indent=2))
        return
    table = Table(Column("mutant", no_wrap=True), "what no longer holds", "its tests", box=None, header_style="bold")
    for mutant in chosen:
        table.add_row(mutant.name, mutant.rule, "\n".join(mutant.tests))
    _print(table)


def _show(results: Sequence[Result]) -> None:
    table = Table(
        Column("mutant", no_wrap=True), "", "by", Column("seconds", justify="right"), box=None, header_style="bold"
    )
    for result in results:
        table.add_row(
            result.mutant.name,
            result.word,
            result.outcome.test.rpartition("/")[2] or result.outcome.why,
            f"{result.outcome.seconds:.1f}",
            style=None if result.caught else "bold red",
        )
    _print(table)


def _print(table: Table) -> None:
    """As wide as the terminal; into a file or a pipe as wide as it is."""
    Console(emoji=False, markup=False, width=None if sys.stdout.isatty() else WIDE).print(table)


if __name__ == "__main__":
    app()
