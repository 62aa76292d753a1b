"""Write-behind: answers leave before their commit, tell how far the store is, and nothing is lost silently."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from redis.asyncio import Redis

from cellwire.cli.embedded import EmbeddedStore
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc, resume_pb2
from models.cells import checked
from service.server import Server
from service.store.keys import session_key
from tests.harness import Place, WireStream, number, open_fault, replica, timestep
from tests.proxy import Fault, Proxy
from tests.waiting import until

NEVER = {"write_behind_steps": 64, "write_behind_seconds": 60.0}
"""Written when somebody asks for it, or at U."""
BEHIND = pb.WRITE_MODE_WRITE_BEHIND


async def stored_step(place: Place, session_id: str = "s") -> int:
    async with Redis.from_url(place.store_url) as redis:
        return int(await redis.hget(session_key(place.tenant, session_id), "n") or -1)


@pytest.fixture
async def lazy(place: Place) -> AsyncIterator[Server]:
    """A replica that writes as late as it may."""
    async with replica(place, **NEVER) as server:
        yield server


@pytest.fixture
async def channel(lazy: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{lazy.port}") as channel:
        yield channel


async def test_a_reply_leaves_before_its_commit_and_says_so(place: Place, channel: grpc.aio.Channel) -> None:
    stream = WireStream(channel)
    opened = await stream.open(write_mode=BEHIND)
    assert (opened.write_mode, opened.max_undurable) == (BEHIND, 64)
    replies = [await stream.replied(step, number(step)) for step in range(1, 6)]
    assert [reply.durable_step for reply in replies] == [0] * 5
    assert await stored_step(place) == 0
    await stream.close()


async def test_leaving_writes_the_tail_and_gives_the_session_up(
    place: Place, lazy: Server, channel: grpc.aio.Channel
) -> None:
    stream = WireStream(channel)
    token = os.urandom(16)
    await stream.open(create_token=token, write_mode=BEHIND)
    for step in range(1, 6):
        last = await stream.replied(step, number(step))
    stream.call.cancel()
    await until(lambda: not lazy.sessions.live, "the end of the stream")
    await lazy.sessions.settled()
    assert await stored_step(place) == 5
    again = await WireStream(channel).open(
        create_token=token,
        found_epoch=last.epoch,
        resume_point=resume_pb2.ResumePoint(received=resume_pb2.Checkpoint(step=5, h=last.h)),
    )
    assert (again.step, again.h) == (5, last.h)


async def test_the_session_stops_at_u_until_the_store_has_it(place: Place) -> None:
    async with (
        replica(place, write_behind_steps=4, write_behind_seconds=60.0, max_undurable=4) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stream = WireStream(channel)
        await stream.open(write_mode=BEHIND)
        for step in range(1, 41):
            reply = await stream.replied(step, number(step))
            assert step - 4 <= reply.durable_step < step
        await stream.close()


async def test_a_commit_under_way_is_not_told_as_durable_and_holds_the_session_at_u(
    place: Place, tmp_path: Path
) -> None:
    terms = {"write_behind_steps": 2, "write_behind_seconds": 60.0, "max_undurable": 4}
    async with (
        Proxy(tmp_path, place.store_url) as proxy,
        replica(place, store_url=proxy.url, **terms) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stream, other = WireStream(channel), WireStream(channel)
        await stream.open(write_mode=BEHIND)
        await other.open("other", write_mode=BEHIND)
        proxy.strike(Fault.HOLD)
        try:
            replies = [await stream.replied(step, number(step)) for step in range(1, 5)]
            await until(lambda: proxy.held, "the commit of the first two")
            assert [reply.durable_step for reply in replies] == [0] * 4
            answering = asyncio.create_task(stream.step(5, number(5)))
            for step in range(1, 5):  # the replica goes on with others
                await other.replied(step, number(step))
            assert not answering.done()
        finally:
            proxy.let_through.set()
        assert (await answering).reply.durable_step in (2, 4)
        response = await stream.ask(pb.StreamRequest(close=pb.Close(step=5)))
        assert response.closed.step == 5
        await stream.close()
        await other.close()


async def test_the_tail_is_written_after_a_while_without_another_step(place: Place) -> None:
    async with (
        replica(place, write_behind_steps=64, write_behind_seconds=0.01) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stream = WireStream(channel)
        await stream.open(write_mode=BEHIND)
        assert (await stream.replied(1, number(1))).durable_step == 0
        (session,) = server.sessions.live.values()
        await until(lambda: session.durable_step == 1, "the commit")
        assert await stored_step(place) == 1
        assert (await stream.replied(2, number(2))).durable_step == 1
        await stream.close()


async def test_a_close_writes_first(place: Place, channel: grpc.aio.Channel) -> None:
    stream = WireStream(channel)
    await stream.open(write_mode=BEHIND)
    for step in range(1, 4):
        await stream.replied(step, number(step))
    response = await stream.ask(pb.StreamRequest(close=pb.Close(step=3)))
    assert response.closed.step == 3
    assert await stored_step(place) == 3
    await stream.close()


async def test_a_close_that_keeps_the_session_writes_first(place: Place, channel: grpc.aio.Channel) -> None:
    stream = WireStream(channel)
    await stream.open(write_mode=BEHIND)
    for step in range(1, 4):
        await stream.replied(step, number(step))
    response = await stream.ask(pb.StreamRequest(close=pb.Close(keep=True)))
    assert response.closed.step == 3
    assert await stored_step(place) == 3
    await stream.close()


async def test_a_pending_step_is_answered_again_and_never_run_again(channel: grpc.aio.Channel) -> None:
    stream = WireStream(channel)
    await stream.open(write_mode=BEHIND)
    first = [await stream.replied(step, number(step)) for step in range(1, 4)]
    again = await stream.replied(2, number(2))
    assert again.replayed
    assert (again.h, again.outputs, again.durable_step) == (first[1].h, first[1].outputs, 0)
    refused = await stream.refused(pb.StreamRequest(timestep=timestep(2, number(99))))
    assert refused.reason == "STEP_CONFLICT"
    last = await stream.replied(4, number(4))
    assert int.from_bytes(last.outputs.tensors[0].data, "little") == checked([1, 2, 3, 4])[-1]
    await stream.close()


async def test_a_takeover_finds_what_was_durable_and_the_client_replays(place: Place, lazy: Server) -> None:
    """The first owner vanishes with its tail: its claim is displaced, and its tail never gets into the store."""
    token = os.urandom(16)
    async with (
        replica(place) as second,
        grpc.aio.insecure_channel(f"127.0.0.1:{lazy.port}") as here,
        grpc.aio.insecure_channel(f"127.0.0.1:{second.port}") as there,
    ):
        stream = WireStream(here)
        opened = await stream.open(create_token=token, write_mode=BEHIND)
        replies = [await stream.replied(step, number(step)) for step in range(1, 6)]
        point = resume_pb2.ResumePoint(
            received=resume_pb2.Checkpoint(step=5, h=replies[-1].h),
            durable_step=0,
            store_id=opened.store_id,
            undurable=[resume_pb2.Checkpoint(step=reply.step, h=reply.h) for reply in replies],
        )
        other = WireStream(there)
        resumed = await other.open(create_token=token, found_epoch=opened.epoch, resume_point=point)
        assert (resumed.step, resumed.h, resumed.write_mode) == (0, opened.h, pb.WRITE_MODE_WRITE_THROUGH)
        again = [await other.replied(step, number(step)) for step in range(1, 6)]
        assert [(reply.h, reply.outputs, reply.replayed) for reply in again] == [
            (reply.h, reply.outputs, False) for reply in replies
        ]
        await stream.send(pb.StreamRequest(timestep=timestep(6, number(6))))
        await stream.call.done_writing()
        await until(lambda: not lazy.sessions.live, "the end of the first stream")
        await lazy.sessions.settled()
        assert await stored_step(place) == 5
        await other.close()


async def test_another_history_below_the_tail_is_noticed(place: Place, lazy: Server, channel: grpc.aio.Channel) -> None:
    token = os.urandom(16)
    stream = WireStream(channel)
    opened = await stream.open(create_token=token, write_mode=BEHIND)
    reply = await stream.replied(1, number(1))
    await stream.close()
    await lazy.sessions.settled()
    told = await open_fault(
        channel,
        session_id="s",
        model="checker",
        create_token=token,
        found_epoch=opened.epoch,
        resume_point=resume_pb2.ResumePoint(
            received=resume_pb2.Checkpoint(step=2, h=b"h" * 16),
            durable_step=0,
            undurable=[resume_pb2.Checkpoint(step=1, h=b"x" * 16), resume_pb2.Checkpoint(step=2, h=b"h" * 16)],
        ),
    )
    assert told.reason == "LINEAGE_MISMATCH"
    assert told.position
    assert told.position.h == reply.h


@pytest.mark.parametrize("full", [False, True], ids=["gone", "full"])
async def test_a_store_that_does_not_take_the_tail_ends_the_stream(
    own_place: Place, own_store: EmbeddedStore, full: bool
) -> None:
    async with (
        replica(own_place, write_behind_steps=4, store_timeout=0.2, commit_deadline=0.5) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stream = WireStream(channel)
        await stream.open(write_mode=BEHIND)
        await stream.replied(1, number(1))
        async with Redis.from_url(own_place.store_url) as redis:
            if full:
                await redis.config_set("maxmemory", "1mb")
        if not full:
            own_store.kill()
        for step in range(2, 5):
            await stream.send(pb.StreamRequest(timestep=timestep(step, number(step))))
        assert (await stream.ended()).reason == "STORE_UNAVAILABLE"
        assert not server.sessions.live


async def test_a_drain_writes_the_tails(place: Place) -> None:
    async with replica(place, **NEVER) as server:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            streams = [WireStream(channel) for _ in range(8)]
            for at, stream in enumerate(streams):
                await stream.open(f"s{at}", write_mode=BEHIND)
                for step in range(1, 4):
                    await stream.replied(step, number(step))
            draining = asyncio.create_task(server.__aexit__(None, None, None))
            told = [await stream.ended() for stream in streams]
            assert {fault.reason for fault in told} == {"DRAINING"}
            await draining
    assert [await stored_step(place, f"s{at}") for at in range(8)] == [3] * 8


async def test_a_unary_call_is_always_written_through(place: Place, channel: grpc.aio.Channel) -> None:
    stub = cell_service_pb2_grpc.CellServiceStub(channel)
    request = pb.Open(session_id="s", model="checker", write_mode=BEHIND)
    response = await stub.Step(pb.StepRequest(open=request, timestep=timestep(1, number(1))))
    assert response.opened.write_mode == pb.WRITE_MODE_WRITE_THROUGH
    assert response.reply.durable_step == await stored_step(place) == 1


# ---- stored replies, for clients that kept no inputs


async def test_stored_replies_come_first_where_they_are_asked_for(server: Server, place: Place) -> None:
    token = os.urandom(16)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stream = WireStream(channel)
        opened = await stream.open(create_token=token)
        replies = [await stream.replied(2 * at + 1, _pair(at), timesteps=2) for at in range(5)]
        await stream.close()
        again = WireStream(channel)
        await again.open(create_token=token, found_epoch=opened.epoch, replies_after=4)
        told = [(await again.read()).reply for _ in range(3)]
        assert [(reply.step, reply.h, reply.outputs, reply.replayed) for reply in told] == [
            (reply.step, reply.h, reply.outputs, True) for reply in replies[2:]
        ]
        assert (await again.replied(11, number(11))).step == 11
        await again.close()


@pytest.mark.parametrize("after", [0, 3], ids=["older than the ring", "inside a message"])
async def test_stored_replies_that_are_not_all_there_are_refused(server: Server, after: int) -> None:
    token = os.urandom(16)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stream = WireStream(channel)
        opened = await stream.open(create_token=token)
        for at in range(17):
            await stream.replied(2 * at + 1, _pair(at), timesteps=2)
        await stream.close()
        fields = {"session_id": "s", "model": "checker", "create_token": token, "replies_after": after}
        told = await open_fault(channel, found_epoch=opened.epoch, **fields)
        assert told.reason == "STEP_TOO_OLD"
        assert told.position
        assert told.position.step == 34


def _pair(at: int) -> np.ndarray:
    """Two timesteps of one message."""
    return number(at).repeat(2).reshape(2, 1)
