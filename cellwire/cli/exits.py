"""Exit codes, and how an error becomes one of them and one line on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer
from rich.console import Console

from cellwire.errors import CellwireError, Disconnected, Unavailable


class Exit(IntEnum):
    """What a program that ran `cellwire` may rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BAD_SETTINGS = 3
    MISSING_EXTRA = 4
    UNREACHABLE = 5


errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def leave(code: Exit, line: str) -> typer.Exit:
    """Say one line on standard error; the exit to be raised."""
    errors.print(f"cellwire: {' '.join(line.split())}")
    return typer.Exit(int(code))


@contextmanager
def told(*targets: str) -> Iterator[None]:
    """Errors of the service, which was looked for at these targets, as one line and an exit code."""
    try:
        yield
    except Unavailable as error:
        nobody = f"no replica answered at {', '.join(targets)}; is one running (cellwire serve)? "
        lead = nobody if targets and isinstance(error.__cause__, Disconnected) else ""
        raise leave(Exit.UNREACHABLE, f"{lead}{error}") from None
    except CellwireError as error:
        raise leave(Exit.FAILED, str(error)) from None


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports that need an extra of the package."""
    try:
        yield
    except ImportError as error:
        what = error.name or "a module"
        raise leave(
            Exit.MISSING_EXTRA, f"this command needs {what}: install it with pip install 'cellwire[{name}]'"
        ) from None
