"""`python -m service`: settings -> run."""

import sys

from service import logs, loop
from service.settings import BadSettings, CannotStart, Settings, load
from service.workers import Workers

EXIT_BAD_SETTINGS = 3


def run(overrides: dict[str, object]) -> int:
    """Runs a replica until a signal comes: its exit code.

    0: drained. 1: a worker had to be killed. 3: the settings cannot be used, said in one line.
    """
    try:
        settings = load(**overrides)
        logs.configure(settings.log_format, settings.log_level)
        return loop.run(_serve(settings))
    except (BadSettings, CannotStart) as error:
        print(f"cellwire: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS


async def _serve(settings: Settings) -> int:
    if settings.num_workers > 1:
        async with Workers(settings) as workers:
            return await workers.run()
    from service.server import Server  # only here: a supervisor does without ONNX Runtime and gRPC

    async with Server(settings) as server:
        await server.run()
    return 0


if __name__ == "__main__":
    sys.exit(run({}))
