"""`cellwire config show`: the settings in force, without secrets."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import typer
from rich.console import Console
from rich.table import Table

from cellwire.cli.exits import Exit, extra, leave

if TYPE_CHECKING:
    from service.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Settings of the service.")


@app.callback()
def _root() -> None:
    """Settings of the service."""


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Show each setting with its value, from the environment or by default. Passwords are hidden.

    Example: `CELLWIRE_PORT=6000 cellwire config show`
    """
    settings = load_settings()
    values = {name: _shown(getattr(settings, name)) for name in type(settings).model_fields}
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    table = Table("variable", "value", "meaning", box=None, header_style="bold")
    for name, field in type(settings).model_fields.items():
        table.add_row(f"CELLWIRE_{name.upper()}", str(values[name]), field.description or "")
    Console().print(table)


def load_settings(**overrides: object) -> "Settings":
    """The service's settings; leaves with exit code 3 and one line if they cannot be used."""
    with extra("server"):
        from service import settings
    try:
        return settings.load(**overrides)
    except settings.BadSettings as error:
        raise leave(Exit.BAD_SETTINGS, str(error)) from None


def _shown(value: Any) -> Any:
    if hasattr(value, "get_secret_value"):
        return _without_password(value.get_secret_value())
    if isinstance(value, tuple):
        return [_shown(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _without_password(url: str) -> str:
    """The URL with its password and its query (which may hold one too) replaced."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    if not parts.scheme:
        return "***"
    credentials, at, host = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return urlunsplit(parts._replace(netloc=f"{user}{colon and ':***'}{at}{host}", query=parts.query and "***"))
