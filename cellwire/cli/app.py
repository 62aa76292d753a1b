"""The tree of commands. Each module adds its own; what a command needs is imported when it runs."""

from typing import Annotated

import typer

from cellwire import __version__
from cellwire.cli import config, demo, models, serve, sessions, stream

app = typer.Typer(
    name="cellwire",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    help="Streaming inference for recurrent models whose memory survives.\n\n"
    "Exit codes: 0 done · 1 failed · 2 wrong usage · 3 bad settings · 4 an extra of the package is missing · "
    "5 no replica could be reached.\n\n"
    "Example: `cellwire demo`",
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    pass


app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("stream")(stream.stream)
app.add_typer(config.app, name="config")
app.add_typer(models.app, name="models")
app.add_typer(sessions.app, name="sessions")
