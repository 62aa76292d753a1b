"""`python -m service`: settings -> run."""

import sys

import uvloop

from service import logs
from service.server import CannotStart, Server
from service.settings import BadSettings, Settings, load

EXIT_BAD_SETTINGS = 3


def run(overrides: dict[str, object]) -> int:
    """Runs a replica until a signal comes: its exit code.

    0: drained. 3: the settings cannot be used, said in one line.
    """
    try:
        settings = load(**overrides)
        logs.configure(settings.log_format, settings.log_level)
        uvloop.run(_serve(settings))
    except (BadSettings, CannotStart) as error:
        print(f"cellwire: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    return 0


async def _serve(settings: Settings) -> None:
    async with Server(settings) as server:
        await server.run()


if __name__ == "__main__":
    sys.exit(run({}))
