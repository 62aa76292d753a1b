"""The client on a real store that is made to fall back, and on replicas that die with what they had not written."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
from redis.asyncio import Redis

from cellwire import errors
from cellwire.cli.children import Children
from cellwire.client import Client, Writes
from cellwire.session import Session
from models.cells import checked
from service.errors import StoreUnavailable
from service.server import Server
from service.store.keys import session_key
from tests.harness import Place, ReplicaProcess, number, replica

INPUTS = [(29 * n) % 10007 for n in range(1, 61)]
FRAMES = [number(x) for x in INPUTS]
MODES: list[Writes] = ["write_through", "write_behind"]
At = Mapping[int, Callable[[], object]]


async def follow(session: Session, at: At, first: int = 1) -> list[tuple[int, int]]:
    """(step, output) of each reply to FRAMES; behind some steps something is done."""
    answers = []
    async for reply in session.stream(FRAMES[first - 1 :]):
        answers.append((reply.step, int(reply.outputs["y"][0])))
        if reply.step in at:
            await asyncio.to_thread(at[reply.step])
    return answers


def right(first: int = 1) -> list[tuple[int, int]]:
    return list(enumerate(checked(INPUTS), 1))[first - 1 :]


class Copy:
    """A copy of a session's key, as a store has it that was restored from a backup or lagged behind."""

    def __init__(self, place: Place) -> None:
        self._redis: Redis = Redis.from_url(place.store_url)
        self._key = session_key(place.tenant, "s")
        self.step = 0

    async def take(self) -> None:
        """Copies the key as it is."""
        self.step = int(await self._redis.hget(self._key, "n") or 0)
        self._copy = await self._redis.dump(self._key) or b""

    async def put(self) -> None:
        """The store falls back to the copy."""
        await self._redis.restore(self._key, 3_600_000, self._copy, replace=True)

    async def close(self) -> None:
        await self._redis.aclose()


@pytest.fixture
async def copy(place: Place) -> AsyncIterator[Copy]:
    copy = Copy(place)
    yield copy
    await copy.close()


@pytest.fixture
async def servers(place: Place) -> AsyncIterator[tuple[Server, Server]]:
    async with replica(place) as first, replica(place) as second:
        yield first, second


def targets(servers: tuple[Server, ...]) -> list[str]:
    return [f"127.0.0.1:{server.port}" for server in servers]


async def step_on(session: Session, first: int, last: int) -> list[int]:
    """The outputs of these steps."""
    return [int((await session.step(FRAMES[step - 1])).outputs["y"][0]) for step in range(first, last + 1)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resumed_between", [False, True])
async def test_a_store_that_falls_back_is_brought_up_again(
    servers: tuple[Server, Server], copy: Copy, mode: Writes, resumed_between: bool, client_kind: type[Client]
) -> None:
    async with (
        client_kind(targets(servers)) as client,
        client.session("s", model="checker", write_mode=mode) as session,
    ):
        outputs = await step_on(session, 1, 20)
        await copy.take()
        if resumed_between:  # the copy then has an older claim, too
            holder = next(each for each in servers if session.opened.target.endswith(f":{each.port}"))
            await holder.sessions.settled()
            for live in tuple(holder.sessions.live.values()):
                live.lose(StoreUnavailable("lost for a moment"))
        outputs += await step_on(session, 21, 40)
        await copy.put()
        outputs += await step_on(session, 41, 60)
        assert outputs == checked(INPUTS)
        change = session.resumptions[-1]
        assert change.regressed
        assert change.step - change.replayed == change.found_step == copy.step
        assert change.step == 40 or (mode == "write_behind" and change.step > 40)


async def test_a_loss_beyond_what_is_kept_is_told_and_may_be_accepted(
    servers: tuple[Server, Server], copy: Copy, client_kind: type[Client]
) -> None:
    async with client_kind(targets(servers), keep_messages=5) as client:
        async with client.session("s", model="checker", keep=True) as session:
            await step_on(session, 1, 20)
            await copy.take()
            await step_on(session, 21, 26)
            await copy.put()
            with pytest.raises(errors.StateRegressed) as regressed:
                await session.step(FRAMES[26])
        place = regressed.value.position
        assert place is not None
        assert place.step == 20
        async with client.session(resume=session.resume_point.back_to(place)) as session:
            assert session.last_step == 20
            assert await follow(session, {}, 21) == right(21)


async def test_a_store_that_fell_back_and_went_another_way_is_a_mismatch(
    servers: tuple[Server, Server], copy: Copy, client_kind: type[Client]
) -> None:
    async with client_kind(targets(servers)) as client:
        async with client.session("s", model="checker", keep=True) as session:
            await step_on(session, 1, 5)
            await copy.take()
            early = session.resume_point
            await step_on(session, 6, 9)
            late = session.resume_point
        await copy.put()
        async with client.session(resume=early, keep=True) as rival:
            for _ in range(5):
                await rival.step(number(1))
        with pytest.raises(errors.LineageMismatch):
            await client.session(resume=late).__aenter__()


@pytest.fixture
def lazy(place: Place, tmp_path: Path) -> Iterator[dict[str, ReplicaProcess]]:
    """Two replicas, by address, that write as late as they may in write-behind."""
    with Children() as children:
        both = [
            ReplicaProcess(children, place, tmp_path, name, write_behind_steps=20, write_behind_seconds=60.0)
            for name in ("first", "second")
        ]
        yield {each.target(): each for each in both}


@pytest.mark.parametrize("step", [7, 33, 59])
async def test_in_write_behind_a_killed_replica_takes_nothing_with_it(
    lazy: dict[str, ReplicaProcess], step: int, client_kind: type[Client]
) -> None:
    async with (
        client_kind(list(lazy)) as client,
        client.session("s", model="checker", write_mode="write_behind") as session,
    ):
        assert session.opened.write_behind
        holder = session.opened.target
        assert await follow(session, {step: lazy[holder].kill}) == right()
        point = session.resume_point
        assert point.durable_step <= point.step == 60
    (change,) = session.resumptions
    assert change.replayed == max(0, change.step - change.found_step)
    assert not change.regressed


async def test_a_saved_point_of_write_behind_is_gone_on_from(
    servers: tuple[Server, Server], client_kind: type[Client]
) -> None:
    async with client_kind(targets(servers)) as client:
        async with client.session("s", model="checker", keep=True, write_mode="write_behind") as session:
            outputs = await step_on(session, 1, 30)
            point = session.resume_point
        for server in servers:
            await server.sessions.settled()
        async with client.session(resume=point, write_mode="write_behind") as session:
            outputs += await step_on(session, 31, 60)
    assert outputs == checked(INPUTS)


async def test_lost_replies_of_a_real_store(servers: tuple[Server, Server], client_kind: type[Client]) -> None:
    async with client_kind(targets(servers)) as client:
        async with client.session("s", model="checker", keep=True) as session:
            await step_on(session, 1, 10)
            point = session.resume_point
            await step_on(session, 11, 20)
            early = session.resume_point
        async with client.session(resume=point, keep=True, lost_replies="fetch") as session:
            fetched = [(reply.step, int(reply.outputs["y"][0])) for reply in session.fetched]
            assert fetched == right(11)[:10]
            await step_on(session, 21, 40)
        with pytest.raises(errors.StepTooOld):
            await client.session(resume=early, lost_replies="fetch").__aenter__()
        async with client.session(resume=early, lost_replies="skip") as session:
            assert session.last_step == 40
            assert await follow(session, {}, 41) == right(41)
