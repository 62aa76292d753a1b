"""What streams leave behind when their clients leave at any moment: nothing."""

import asyncio
import gc
import os
import random
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from cellwire.v1 import cell_service_pb2 as pb
from service.server import Server
from service.store.keys import session_key
from tests.harness import Place, WireStream, number, replica, timestep
from tests.many import WireMany, columns, numbers
from tests.numbered import Numbered
from tests.waiting import until

STREAMS, AT_ONCE = 200, 20


def descriptors() -> int:
    """Open file descriptors of this process."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def dial(server: Server) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")


async def ride(channel: grpc.aio.Channel, session_id: str, draw: random.Random) -> None:
    """A stream with steps in flight that is cut off after so many turns of the event loop, or so many answers."""
    turns = draw.choice([0, draw.randrange(20), draw.randrange(200), draw.randrange(1000)])
    answers = draw.randrange(1, 20) if draw.random() < 0.5 else 0
    answered = asyncio.Event()
    stream = WireStream(channel)

    async def go() -> None:
        try:
            await stream.open(session_id, create_token=session_id.encode().rjust(16))
            for step in range(1, 20):
                await stream.send(pb.StreamRequest(timestep=timestep(step, number(step))))
            for step in range(1, 20):
                await stream.read()
                if step == answers:
                    answered.set()
        except (grpc.aio.AioRpcError, asyncio.CancelledError, asyncio.InvalidStateError):
            pass

    going = asyncio.create_task(go())
    if answers:
        await answered.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    stream.call.cancel()
    going.cancel()  # a client's own call may never learn that it was cancelled before it began
    await asyncio.wait([going])


async def ride_together(channel: grpc.aio.Channel, session_id: str, draw: random.Random) -> None:
    """The same with three sessions on one stream, of which the first has the id."""
    turns = draw.choice([0, draw.randrange(20), draw.randrange(200), draw.randrange(1000)])
    many = WireMany(channel)

    async def go() -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError, asyncio.InvalidStateError, EOFError):
            token = session_id.encode().rjust(16)
            await many.open({1: session_id, 2: f"{session_id}-2", 3: f"{session_id}-3"}, create_token=token)
            for step in range(1, 8):
                await many.send(timesteps=[columns([1, 2, 3], [step] * 3, numbers(step, step, step))])
            await many.send(closes=[pb.HandleClose(handle=2, close=pb.Close(step=7))])
            while True:
                await many.read()

    going = asyncio.create_task(go())
    for _ in range(turns):
        await asyncio.sleep(0)
    many.call.cancel()
    going.cancel()
    await asyncio.wait([going])


async def many(server: Server, prefix: str, seed: int, ride: Callable[..., Awaitable[None]]) -> None:
    """STREAMS such streams."""
    draw = random.Random(seed)
    async with dial(server) as channel:
        for first in range(0, STREAMS, AT_ONCE):
            await asyncio.gather(*(ride(channel, f"{prefix}{first + at}", draw) for at in range(AT_ONCE)))


def quiet(server: Server) -> bool:
    """Nothing of a stream is left in the replica's memory."""
    return not server.sessions.live and not server.servicer.live and not any(map(len, server.sessions.writes))


async def settled(server: Server, tasks: int) -> None:
    await until(lambda: quiet(server), "no stream left")
    await until(lambda: len(asyncio.all_tasks()) <= tasks, f"{tasks} tasks, {asyncio.all_tasks()}")


@pytest.mark.parametrize(("ride", "share"), [(ride, 4), (ride_together, 40)])
async def test_cancelled_streams_leave_no_task_descriptor_claim_or_lease(
    place: Place, ride: Callable[..., Awaitable[None]], share: int
) -> None:
    """`share`: at least one in so many lived long enough to be claimed; three claims together take longer."""
    async with replica(place) as server:
        await many(server, "warm", 0, ride)
        await until(lambda: quiet(server), "no stream left")
        tasks, open_files = len(asyncio.all_tasks()), descriptors()
        await many(server, "s", 1, ride)
        await settled(server, tasks)
        await until(lambda: descriptors() <= open_files, "the descriptors are back")

        store: Redis = Redis.from_url(place.store_url)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(store.aclose)
            channel = await stack.enter_async_context(dial(server))
            opened = 0
            for at in range(STREAMS):
                fields = await store.hgetall(session_key(place.tenant, f"s{at}"))
                if not fields:
                    continue
                # who has no token is not told BUSY: the lease was given up
                assert fields[b"l"] == b"0"
                stream = WireStream(channel)
                found = int(fields[b"e"])
                told = await stream.open(f"s{at}", mode=pb.OPEN_MODE_RESUME, found_epoch=found)
                assert told.step == int(fields[b"n"])
                assert int(fields[b"n"]) == int(fields[b"c"])
                await stream.close()
                opened += 1
            assert opened > STREAMS / share


async def test_a_call_that_did_not_commit_leaves_no_lease(place: Place) -> None:
    store: Redis = Redis.from_url(place.store_url)
    key = session_key(place.tenant, "s")

    try:
        async with replica(place) as server, dial(server) as channel:
            client = Numbered("s", [number(step) for step in range(9)])
            client.take(await client.call(channel, 1))
            for other in (1, 5):  # a replay, then a gap
                epoch = await store.hget(key, "e")
                with suppress(grpc.aio.AioRpcError):
                    await client.call(channel, other)
                assert await store.hget(key, "e") != epoch
                await server.sessions.settled()
                assert await store.hget(key, "l") == b"0"
    finally:
        await store.aclose()


async def poll(condition: Callable[[], Awaitable[bool]]) -> None:
    """Asks until it is so; its caller bounds it."""
    while not await condition():
        pass


async def test_closed_sessions_and_their_keys_are_gone_after_the_tombstones_time(place: Place) -> None:
    pattern = session_key(place.tenant, "*")
    async with replica(place, tombstone=1.0) as server, dial(server) as channel:
        for at in range(20):
            stream = WireStream(channel)
            await stream.open(f"s{at}", create_token=os.urandom(16))
            await stream.replied(1, number(at))
            assert (await stream.ask(pb.StreamRequest(close=pb.Close(step=1)))).closed.step == 1
            await stream.close()
        store: Redis = Redis.from_url(place.store_url)
        try:

            async def none_left() -> bool:
                return not [key async for key in store.scan_iter(match=pattern)]

            looking = asyncio.create_task(poll(none_left))
            await until(looking.done, "no key left")
            await looking
        finally:
            await store.aclose()


async def test_a_replica_that_ends_leaves_no_task_and_no_descriptor(place: Place) -> None:
    async with replica(place) as server, dial(server) as channel:
        stream = WireStream(channel)
        await stream.open()
        await stream.close()
    tasks, open_files = asyncio.all_tasks(), descriptors()
    async with replica(place) as server, dial(server) as channel:
        for at in range(10):
            stream = WireStream(channel)
            await stream.open(f"s{at}")
            await stream.replied(1, number(at))
    await until(lambda: asyncio.all_tasks() <= tasks, f"{asyncio.all_tasks() - tasks}")
    await until(lambda: descriptors() <= open_files, "the descriptors are back")


@pytest.mark.parametrize("mode", [pb.WRITE_MODE_WRITE_THROUGH, pb.WRITE_MODE_WRITE_BEHIND])
@pytest.mark.parametrize("keep", [True, False])
async def test_a_session_leaves_memory_with_its_stream_and_waits_for_no_collector(
    place: Place, mode: pb.WriteMode, keep: bool
) -> None:
    async with replica(place) as server, dial(server) as channel:
        stream = WireStream(channel)
        await stream.open(write_mode=mode)
        await stream.replied(1, number(1))
        (session,) = map(weakref.ref, server.sessions.live.values())
        gc.disable()
        try:
            if not keep:
                assert (await stream.ask(pb.StreamRequest(close=pb.Close(step=1)))).closed.step == 1
            await stream.close()
            await until(lambda: session() is None, "the session is gone")
        finally:
            gc.enable()
