"""How long a client waits when something that served it dies: the longest time without an answered timestep."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from cellwire.client import Client
from tests.access import users
from tests.faults.fleet import Fleet
from tests.faults.history import Event, History
from tests.faults.library import Application
from tests.faults.workload import Holder, Script
from tests.harness import Place
from tests.topologies import SentinelStore
from tests.waiting import eventually

PAUSE_SECONDS = 0.05
"""Between two messages of a client; part of what it waits for in any case."""
SETTLED_SECONDS = 1.0
DOWN_AFTER = 1.0


async def when_replicas_die(models: Path, directory: Path, kills: int, clients: int) -> list[float]:
    """Seconds, for each client of the library that rode on a replica when it was killed."""
    history, gaps = History(), list[float]()
    with Children() as children, EmbeddedStore(children, fsync="always", users=users()) as store:
        place = Place(store.url, "gaps", (models,))
        async with Fleet(children, place, directory, history, log_level="WARNING") as fleet:
            async with Client(fleet.fronts) as client:
                scripts = [Script(f"gap{at}", 1, "checker", at) for at in range(clients)]
                riders = [Application(s.session, s, client, history, PAUSE_SECONDS) for s in scripts]
                tasks = [asyncio.create_task(rider.run()) for rider in riders]
                for turn in range(kills):
                    slot = fleet.slots[turn % len(fleet.slots)]
                    await _all_answered(history, {rider.name for rider in riders})
                    at = time.monotonic()
                    there = {r.name for r in riders if r.session and r.session.opened.target == slot.gate.address}
                    await slot.kill()
                    await _all_answered(history, there)
                    gaps.extend(gap for name, gap in longest(history.events, at).items() if name in there)
                    await fleet.start(slot)
                for rider in riders:
                    rider.finish.set()
                await asyncio.gather(*tasks)
                assert not any(rider.errors for rider in riders), [rider.errors for rider in riders]
    return gaps


async def when_sentinel_fails_over(models: Path, directory: Path, clients: int) -> list[float]:
    """Seconds, for each client when the primary is killed and sentinels promote another one."""
    history = History()
    with Children() as children, SentinelStore(children, down_after=DOWN_AFTER) as store:
        place = Place(store.url, "failover", (models,))
        async with Fleet(children, place, directory, history, count=2, direct=True, log_level="WARNING") as fleet:
            scripts = [Script(f"gap{at}", 1, "checker", at) for at in range(clients)]
            riders = [
                Holder(s.session, s, fleet, history, random.Random(s.seed), pace=PAUSE_SECONDS / 5) for s in scripts
            ]
            tasks = [asyncio.create_task(rider.run()) for rider in riders]
            await _all_answered(history, {rider.name for rider in riders})
            at = time.monotonic()
            await asyncio.to_thread(store.kill_primary)
            await _all_answered(history, {rider.name for rider in riders})
            for rider in riders:
                rider.finish.set()
            await asyncio.gather(*tasks)
    return list(longest(history.events, at).values())


def longest(events: Iterable[Event], since: float) -> dict[str, float]:
    """For each holder the longest time between two replies, from those that this moment is between."""
    holders: dict[int, str] = {}
    last: dict[str, float] = {}
    gaps: dict[str, float] = {}
    for event in events:
        if event["k"] == "open":
            holders[event["stream"]] = event["holder"]
        elif event["k"] == "reply":
            holder = holders[event["stream"]]
            if event["t"] > since and holder in last:
                gaps[holder] = max(gaps.get(holder, 0.0), event["t"] - last[holder])
            last[holder] = event["t"]
    return gaps


async def _all_answered(history: History, holders: set[str]) -> None:
    """Returns once each of them was answered twice from here on."""
    since = len(history.events)
    streams = {event["stream"]: event["holder"] for event in history.of("open")}

    async def twice() -> bool:
        counts: defaultdict[str, int] = defaultdict(int)
        for event in history.events[since:]:
            if event["k"] == "open":
                streams[event["stream"]] = event["holder"]
            elif event["k"] == "reply":
                counts[streams[event["stream"]]] += 1
        return all(counts[holder] > 1 for holder in holders)

    await eventually(twice, "an answer for each client", longest=30.0)
    await asyncio.sleep(SETTLED_SECONDS)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
