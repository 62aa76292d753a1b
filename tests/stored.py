"""Sessions in a Store of any topology, with no service before it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from service.errors import CellwireError
from service.store.endpoint import Access
from service.store.form import topology_of
from service.store.outcome import Written
from service.store.scripts import Granted
from service.store.store import Store
from tests.access import as_service
from tests.scripted import Held, claim, held

SOON = 20.0
"""Seconds until a call that must succeed would give up."""
Item = TypeVar("Item", bound=Any)
Result = TypeVar("Result")


@asynccontextmanager
async def store_of(
    url: str, *, patience: float = 1.0, deadline: float = SOON, degrade: bool = False, **access: Any
) -> AsyncIterator[Store]:
    """A Store as the service would have it, with a tenant of its own."""
    topology = topology_of(url if access else as_service(url), Access(patience, **access))
    async with Store(topology, f"t{uuid.uuid4().hex[:12]}", deadline, degrade=degrade) as store:
        yield store


async def by_lane(
    store: Store, run: Callable[[int, Sequence[Item]], Awaitable[Sequence[Result]]], items: Sequence[Item]
) -> list[Result]:
    """Each lane's items in a batch of their own, all at once, as the service does it."""
    lanes: dict[int, list[Item]] = {}
    for item in items:
        lanes.setdefault(store.lane(item.key), []).append(item)
    answers = await asyncio.gather(*(run(lane, part) for lane, part in lanes.items()))
    results = {
        item.key: result
        for part, told in zip(lanes.values(), answers, strict=True)
        for item, result in zip(part, told, strict=True)
    }
    return [results[item.key] for item in items]


async def claimed(store: Store, count: int, replicas: int = 0) -> list[Held]:
    """So many new sessions."""
    claims = [claim(store.key(f"s{number}"), replicas=replicas) for number in range(count)]
    granted = await by_lane(store, store.claim_batch, claims)
    sessions = []
    for item, answer in zip(claims, granted, strict=True):
        assert isinstance(answer, Granted), answer
        sessions.append(held(item, answer))
    return sessions


async def advanced(store: Store, sessions: Sequence[Held], text: object = "x", replicas: int = 0) -> list[Held]:
    """The sessions one commit on; none may fail."""
    commits = [session.commit(text, replicas=replicas) for session in sessions]
    told: list[Written | CellwireError] = await by_lane(store, store.write_batch, commits)
    assert told == [Written(commit.n_to) for commit in commits], told
    return [session.after(commit) for session, commit in zip(sessions, commits, strict=True)]
