"""One run of the proof: replicas, a store, clients, and a nemesis, until enough has happened.

It judges nothing: the checker comes after.
"""

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cellwire.cli.children import Children
from cellwire.client import Client
from tests.faults.crowd import Crowd
from tests.faults.fleet import Fleet
from tests.faults.history import History
from tests.faults.nemesis import Nemesis
from tests.faults.stores import Pair
from tests.harness import Place
from tests.waiting import eventually

IDLE_SECONDS = 20.0
SETTINGS: dict[str, Any] = {
    "log_level": "WARNING",
    "store_timeout": 0.6,
    "commit_deadline": 4.0,
    "lease": 4.0,
    "heartbeat": 1.0,
    "tombstone": 6.0,
    "idle_ttl": IDLE_SECONDS,
}
"""Short, so that all that should expire does within a test."""
LOOK_SECONDS = 0.5
CONNECTIONS = 5
"""Of a replica beyond those of its start: to the store, made when first needed, and of clients that are just going."""


async def storm(
    models: Path,
    directory: Path,
    history: History,
    seed: int,
    enough: Callable[[], bool],
    *,
    size: int = 1,
    program: Path | None = None,
) -> None:
    """Runs until `enough` says so, heals everything, and lets every client get to its end.

    Args:
        models: a repository with the small test models.
        directory: for logs and sockets; a short path.
        history: is written to.
        seed: of the nemesis and of the clients' inputs.
        enough: looked at twice a second.
        size: so many times 12 streams, 4 sessions with rivals, 4 of calls and 4 of applications.
        program: of the store; None: the embedded one.
    """
    with Children() as children:
        async with Pair(children, program=program) as pair:
            place = Place(pair.url, "storm", (models,))
            async with Fleet(children, place, directory, history, **SETTINGS) as fleet:
                async with Client(fleet.fronts, reply_timeout=1.5) as client:
                    descriptors = _descriptors(fleet) + CONNECTIONS * len(fleet.slots)
                    crowd, nemesis = Crowd(fleet, client, history, seed), Nemesis(fleet, pair, history, seed)
                    crowd.start(12 * size, 4 * size, 4 * size, 4 * size, pause=0.02)
                    nemesis.start()
                    while not enough():
                        await asyncio.sleep(LOOK_SECONDS)
                        crowd.raise_failures()
                        nemesis.raise_failures()
                    await nemesis.heal()
                    await crowd.finish()
                await _count_what_is_left(fleet, pair, history, descriptors)


async def _count_what_is_left(fleet: Fleet, pair: Pair, history: History, descriptors: int) -> None:
    """Keys once they should have expired, and descriptors once the clients have gone."""
    for slot in fleet.slots:
        await slot.hang_up()
    gc.collect()  # a call that failed is kept by its own traceback, and keeps its connection
    keys = 1  # the store's id

    async def none_left() -> bool:
        return int(await pair.ask("DBSIZE")) <= keys and _descriptors(fleet) <= descriptors

    with suppress(AssertionError):  # the census tells what is left
        await eventually(none_left, "what should be gone", longest=IDLE_SECONDS + 20)
    history.add("census", name="keys", place="before", count=keys)
    history.add("census", name="keys", place="after", count=int(await pair.ask("DBSIZE")))
    history.add("census", name="descriptors", place="before", count=descriptors)
    history.add("census", name="descriptors", place="after", count=_descriptors(fleet))


def _descriptors(fleet: Fleet) -> int:
    """Of all replicas together."""
    return sum(len(list(Path(f"/proc/{slot.pid}/fd").iterdir())) for slot in fleet.slots)
