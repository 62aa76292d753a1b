"""The stage of one fault: a store, two replicas and a few clients that go on, whatever the test does to them.

On leaving, the clients get to their end and the checker judges all that happened.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cellwire.cli.children import Children
from cellwire.client import Client
from tests.faults import checker
from tests.faults.crowd import Crowd
from tests.faults.fleet import Fleet, Slot
from tests.faults.history import Event, History
from tests.faults.storm import SETTINGS
from tests.faults.tally import Tally
from tests.harness import Place
from tests.waiting import eventually, until


class Store(Protocol):
    """What replicas are given."""

    @property
    def url(self) -> str: ...


@dataclass
class Stage:
    """What a test has in its hands."""

    fleet: Fleet
    history: History
    crowd: Crowd
    client: Client

    @property
    def slots(self) -> list[Slot]:
        return self.fleet.slots

    def counts(self) -> Mapping[str, int]:
        """What the history shows so far."""
        return Tally(self.history).update()

    def reasons(self) -> set[str]:
        """Every reason that a client was told so far."""
        return {event["reason"] for event in self.history.of("ended", "denied", "refused")}

    def may_lose(self, what: str) -> None:
        """The store may forget acknowledged writes about now."""
        self.history.add("fault", what=what, target="store", loses=True)

    @contextmanager
    def losing(self, what: str) -> Iterator[None]:
        """As `may_lose`, for all that happens within the block."""
        began = len(self.history.events)
        self.history.add("fault", what=what, target="store", loses=True, began=began)
        try:
            yield
        finally:
            self.history.add("fault", what=f"end of {what}", target="store", ends=began)

    async def answered(self, times: int = 3, longest: float = 30.0) -> None:
        """Returns once each session was answered so often from here on."""
        since = len(self.history.events)
        sessions = {event["session"] for event in self.history.of("session")}

        async def enough() -> bool:
            counts = dict.fromkeys(sessions, 0)
            of = {event["stream"]: event["session"] for event in self.history.of("open")}
            for event in self.history.events[since:]:
                if event["k"] == "reply":
                    counts[of[event["stream"]]] = counts.get(of[event["stream"]], 0) + 1
                elif event["k"] == "loss":
                    counts.pop(event["session"], None)
            return all(count >= times for count in counts.values())

        await eventually(enough, "answers for every session", longest=longest)


@asynccontextmanager
async def staged(
    models: Path,
    directory: Path,
    children: Children,
    store: Store,
    *,
    streams: int = 4,
    rivals: int = 1,
    calls: int = 1,
    applications: int = 0,
    replicas: int = 2,
    direct: bool = False,
    least_copies: int = 0,
    **settings: Any,
) -> AsyncIterator[Stage]:
    """The stage, with so many sessions of each sort. Sessions that are closed or lost are followed by others.

    `replicas` are those of the service, `least_copies` those of the store that must hold a commit.
    """
    history = History()
    async with AsyncExitStack() as stack:
        fleet = Fleet(
            children,
            Place(store.url, "stage", (models,)),
            directory,
            history,
            count=replicas,
            direct=direct,
            **{**SETTINGS, "idle_ttl": 120.0, "replicas": least_copies, **settings},
        )
        await stack.enter_async_context(fleet)
        client = await stack.enter_async_context(Client(fleet.fronts, reply_timeout=1.5))
        crowd = Crowd(fleet, client, history, seed=1)
        crowd.start(streams, rivals, calls, applications, pause=0.02)
        stage = Stage(fleet, history, crowd, client)
        try:
            await until(lambda: len(list(history.of("session"))) >= streams + rivals + calls + applications, "sessions")
            await stage.answered()
            yield stage
        finally:
            await crowd.finish()
    assert_kept(history.events, models, directory / "history.jsonl")


def assert_kept(events: list[Event], models: Path, file: Path) -> None:
    """No rule is broken; else the violations and what led to the first of them, and all that happened in a file."""
    violations = checker.check(events, models)
    if violations:
        file.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    lines = [f"{type(violation).__name__} {violation}" for violation in violations[:10]]
    lines += [str(event) for event in checker.excerpt(events, violations[0])] if violations else []
    assert not violations, "\n".join(lines)


async def during(seconds: float, act: Any, every: float) -> None:
    """Does something again and again for so long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await act()
        await asyncio.sleep(every)
