"""Whether a replica grows: memory, descriptors, tasks and keys while many sessions go on for long."""

import asyncio
import random
import statistics
import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from tests.access import users
from tests.faults.fleet import Fleet, Slot
from tests.faults.history import History
from tests.faults.workload import Holder, Script
from tests.harness import Place
from tests.topologies import free_port

LOOK_SECONDS = 5.0
TURN_SECONDS = 6.0
"""Mean time between two messages of a session."""
Sample = dict[str, float]


class Quiet(History):
    """Forgets: the run is long and nothing in it is to be judged."""

    def add(self, kind: str, **fields: object) -> None:
        """Nothing is kept."""


async def measure(models: Path, directory: Path, seconds: float, sessions: int = 1000) -> dict[str, float]:
    """The growth from the second quarter of the time to the last, of one replica.

    Gives rss (a share of what it was), descriptors, tasks, keys, and sessions (live at the end).
    """
    history, admin = Quiet(), free_port()
    with Children() as children, EmbeddedStore(children, users=users()) as store:
        place = Place(store.url, "growth", (models,))
        async with Fleet(children, place, directory, history, count=1, log_level="WARNING", admin_port=admin) as fleet:
            draw = random.Random(1)
            scripts = [Script(f"grow{at}", 1, "checker", at) for at in range(sessions)]
            holders = [Holder(s.session, s, fleet, history, draw, pace=TURN_SECONDS) for s in scripts]
            tasks = []
            for holder in holders:
                tasks.append(asyncio.create_task(holder.run()))
                await asyncio.sleep(0.005)
            samples, end = list[Sample](), time.monotonic() + seconds
            while time.monotonic() < end:
                await asyncio.sleep(LOOK_SECONDS)
                samples.append(await _look(fleet.slots[0], admin, store.url))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    quarter = len(samples) // 4
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]
    medians = {name: [statistics.median(s[name] for s in part) for part in (before, after)] for name in samples[0]}
    grown = {name: late - early for name, (early, late) in medians.items()}
    grown["rss"] /= medians["rss"][0]
    grown["sessions"] = samples[-1]["sessions"]
    return grown


async def _look(slot: Slot, admin: int, store_url: str) -> Sample:
    store: Redis = Redis.from_url(store_url)
    try:
        keys = await store.dbsize()
    finally:
        await store.aclose()
    process = slot.process
    assert process
    own = {"rss": float(process.memory()), "descriptors": float(process.descriptors()), "keys": float(keys)}
    return {**own, **await asyncio.to_thread(_of_admin, admin)}


def _of_admin(port: int) -> Sample:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    told = {sample.name: sample.value for family in families for sample in family.samples}
    return {"tasks": told["cellwire_tasks"], "sessions": told["cellwire_live_sessions"]}
