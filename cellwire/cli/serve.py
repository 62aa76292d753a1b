"""`cellwire serve`: one replica."""

from contextlib import ExitStack
from typing import Annotated

import typer

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from cellwire.cli.exits import extra


def serve(
    port: Annotated[int | None, typer.Option(help="gRPC port; 0: any free one.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Port of metrics and health over HTTP; 0: any.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve the port together; 0: one a core.")] = None,
    store_url: Annotated[str | None, typer.Option(help="URL of the store.")] = None,
    embedded_store: Annotated[
        bool, typer.Option("--embedded-store", help="With a store of its own, to try things out; both end together.")
    ] = False,
    models: Annotated[str | None, typer.Option(help="Model repositories, separated by ':'.")] = None,
) -> None:
    """Serve models over gRPC, until SIGTERM drains the replica.

    Every setting is also read from the environment, `CELLWIRE_PORT` and so on; `cellwire config show` lists them.
    A URL with a password belongs there, not on the command line, which others can see.

    Example: `cellwire serve --port 50051 --store-url redis://localhost:6379`
    """
    with extra("server"):
        from service.__main__ import run
    given: dict[str, object] = {
        "port": port,
        "admin_port": admin_port,
        "workers": workers,
        "store_url": store_url,
        "models": models,
    }
    with ExitStack() as stack:
        if embedded_store:
            given["store_url"] = stack.enter_context(EmbeddedStore(stack.enter_context(Children()))).url
        code = run({name: value for name, value in given.items() if value is not None})
    raise typer.Exit(code)
