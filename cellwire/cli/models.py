"""`cellwire models`: the zoo and the repositories of this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column, Table

from cellwire.cli.config import load_settings
from cellwire.cli.exits import Exit, errors, extra, leave

if TYPE_CHECKING:
    from service.model.proof import Proof
    from service.model.repository import Repository

app = typer.Typer(no_args_is_help=True, help="Models: those that can be fetched, and those that are here.")

AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]
Roots = Annotated[str | None, typer.Option("--models", help="Model repositories, separated by ':'.")]
_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[red]failed[/]"}


@app.command("list")
def list_models(models: Roots = None, as_json: AsJson = False) -> None:
    """List the zoo's models and those in the repositories.

    Example: `cellwire models list --json`
    """
    with extra("server"):
        from models import catalogue
    settings = load_settings(**({"models": models} if models else {}))
    repository = _repository(models)
    here = {name: list(repository.versions(name)) for name in repository.names()}
    rows: list[dict[str, Any]] = [
        {
            "model": entry.name,
            "here": here.pop(entry.name, []),
            "pulled": entry.is_present(settings.models_cache),
            "source": entry.requirement,
            "licence": entry.licence,
        }
        for entry in catalogue.entries()
    ]
    rows += [
        {"model": name, "here": versions, "pulled": None, "source": "repository", "licence": None}
        for name, versions in here.items()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(Column("model", no_wrap=True), "versions here", "from", "licence", box=None, header_style="bold")
    for row in rows:
        versions = ", ".join(row["here"]) or "[dim]not pulled[/]"
        table.add_row(str(row["model"]), versions, str(row["source"]), str(row["licence"] or ""))
    Console().print(table)


@app.command()
def pull(
    names: Annotated[list[str] | None, typer.Argument(help="Models of the zoo; none: all.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch models of the zoo into the cache; what is there already is not fetched again.

    Example: `cellwire models pull silero_vad`
    """
    with extra("server"):
        from models import catalogue
    cache = load_settings().models_cache
    wanted = names or [entry.name for entry in catalogue.entries()]
    stages: dict[str, str] = {}
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        console=errors, disable=quiet or as_json, transient=True,
    ) as progress:  # fmt: skip
        task = progress.add_task("looking", total=len(set(wanted)))

        def note(name: str, stage: str) -> None:
            stages[name] = stage
            progress.update(task, description=f"{name}: {stage}", advance=0 if stage == "fetching" else 1)

        try:
            paths = catalogue.pull(wanted, cache, note)
        except catalogue.CatalogueError as error:
            raise leave(Exit.FAILED, str(error)) from None
    if as_json:
        found = zip(wanted, paths, strict=True)
        typer.echo(json.dumps([{"model": name, "path": str(path), "was": stages[name]} for name, path in found]))
    elif not quiet:
        for name in dict.fromkeys(wanted):
            typer.echo(f"{name}: {'already here' if stages[name] == 'present' else stages[name]}")


@app.command()
def doctor(
    names: Annotated[list[str] | None, typer.Argument(help="Models, as NAME or NAME/VERSION; none: all here.")] = None,
    models: Roots = None,
    as_json: AsJson = False,
) -> None:
    """Prove that models stream right: stepped = whole, batched = alone, resumed = unbroken, state moves.

    Exit code 1 if a check failed; a warning is no failure.

    Example: `cellwire models doctor silero_vad`
    """
    with extra("server"):
        from models import catalogue
        from service import errors as service_errors
        from service import logs
        from service.model import proof
    logs.configure("console", "ERROR")
    repository = _repository(models)
    proofs: list[Proof] = []
    for name in names or repository.names():
        with errors.status(f"proving {name}", spinner="dots"):
            model, _, version = name.partition("/")
            try:
                proofs.append(proof.doctor(repository, model, version))
            except service_errors.ModelUnknown:
                known = model in {entry.name for entry in catalogue.entries()}
                hint = f"fetch it: cellwire models pull {model}" if known else "cellwire models list shows which are"
                raise leave(Exit.FAILED, f"no model {name} here; {hint}") from None
    if as_json:
        typer.echo(json.dumps([_facts(each) for each in proofs], indent=2))
    else:
        _show(proofs)
    if not proofs or any(each.failed for each in proofs):
        raise typer.Exit(int(Exit.FAILED))


def _repository(roots: str | None) -> "Repository":
    with extra("server"):
        from service.model.provider import Execution
        from service.model.repository import Repository
    settings = load_settings(**({"models": roots} if roots else {}))
    return Repository([Path(root) for root in settings.repositories if Path(root).is_dir()], Execution.of(settings))


def _facts(proof: "Proof") -> dict[str, Any]:
    checks = [{"check": c.name, "status": c.status, "detail": c.detail, "figure": c.figure} for c in proof.checks]
    return {"model": proof.model, "serves": proof.failed is None, "max_batch": proof.max_batch, "checks": checks}


def _show(proofs: list["Proof"]) -> None:
    console = Console()
    for proof in proofs:
        batch = f"batches up to {proof.max_batch}" if proof.max_batch > 1 else "one session a call"
        console.print(f"[bold]{proof.model}[/]  {batch if proof.failed is None else '[red]refused[/]'}")
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
        for check in proof.checks:
            table.add_row(_MARKS[check.status], check.name, check.detail)
        console.print(table)
