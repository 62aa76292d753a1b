"""The way of one timestep through a real replica."""

import os

import grpc
import numpy as np
from redis.asyncio import Redis

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import session_service_pb2, session_service_pb2_grpc
from models.cells import checked
from service.store.keys import session_key
from tests.harness import Place, WireStream, arrays, number, open_fault, replica


async def test_each_timestep_is_answered_with_its_state(channel: grpc.aio.Channel) -> None:
    stream = WireStream(channel)
    opened = await stream.open(create_token=os.urandom(16))
    assert opened.created
    assert opened.step == 0
    replies = [await stream.replied(step, number(step * 7)) for step in range(1, 6)]
    assert [int(arrays(r.outputs)["y"][0]) for r in replies] == checked([7, 14, 21, 28, 35])
    assert [r.step for r in replies] == [1, 2, 3, 4, 5]
    assert [r.durable_step for r in replies] == [1, 2, 3, 4, 5]
    assert len({r.h for r in replies}) == 5
    response = await stream.ask(pb.StreamRequest(close=pb.Close(step=5)))
    assert response.closed.step == 5
    await stream.close()


async def test_a_message_of_several_timesteps_equals_them_one_by_one(channel: grpc.aio.Channel) -> None:
    stream = WireStream(channel)
    await stream.open()
    reply = await stream.replied(1, np.arange(5, dtype=np.int64).reshape(5, 1), timesteps=5)
    assert reply.step == 5
    assert arrays(reply.outputs)["y"].reshape(-1).tolist() == checked([0, 1, 2, 3, 4])
    await stream.close()


async def test_a_session_is_kept_for_its_time_to_live_though_few_commits_move_its_expiry(place: Place) -> None:
    ttl_ms = 2000
    settings = {"idle_ttl": ttl_ms / 1000, "tombstone": 0.5, "lease": 1.0, "heartbeat": 0.5}
    key, step = session_key(place.tenant, "s").decode(), 0
    expiries: list[int] = []
    async with replica(place, **settings) as server, Redis.from_url(place.store_url) as store:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stream = WireStream(channel)
            assert (await stream.open()).idle_ttl.ToMilliseconds() == ttl_ms
            while len(set(expiries)) < 3:
                step += 1
                seconds, micros = await store.time()
                await stream.replied(step, number(step))
                expiries.append(await store.pexpiretime(key))
                assert seconds * 1000 + micros // 1000 + ttl_ms <= expiries[-1]
            await stream.close()
    assert step > 10
    assert expiries == sorted(expiries)


async def test_a_token_is_drawn_and_told_only_for_a_session_that_is_created(channel: grpc.aio.Channel) -> None:
    first = WireStream(channel)
    assert len((await first.open()).create_token) == 16
    await first.replied(1, number(3))
    await first.ask(pb.StreamRequest(close=pb.Close(step=1, keep=True)))
    second = WireStream(channel)
    epoch = (await open_fault(channel, session_id="s", model="checker")).position
    assert epoch is not None
    opened = await second.open(found_epoch=epoch.epoch)
    assert (opened.created, opened.step, opened.create_token) == (False, 1, b"")
    await second.close()


async def test_a_replica_without_the_model_of_a_session_sends_its_client_elsewhere(
    channel: grpc.aio.Channel, place: Place
) -> None:
    token = os.urandom(16)
    stream = WireStream(channel)
    epoch = (await stream.open("elsewhere", create_token=token)).epoch
    await stream.replied(1, number(3))
    async with replica(place, load="lstm") as other, grpc.aio.insecure_channel(f"127.0.0.1:{other.port}") as there:
        told = await open_fault(
            there,
            session_id="elsewhere",
            model="checker",
            version="1",
            create_token=token,
            mode=pb.OPEN_MODE_RESUME,
            found_epoch=epoch,
        )
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_HERE")
    await stream.replied(2, number(4))
    await stream.close()


async def test_closing_what_an_operator_closed_is_no_error(channel: grpc.aio.Channel) -> None:
    token = os.urandom(16)
    stream = WireStream(channel)
    await stream.open("twice", create_token=token)
    await stream.replied(1, number(3))
    sessions = session_service_pb2_grpc.SessionServiceStub(channel)
    assert (await sessions.CloseSession(session_service_pb2.CloseSessionRequest(session_id="twice"))).step == 1
    response = await stream.ask(pb.StreamRequest(close=pb.Close(step=1)))
    assert response.closed.step == 1
    await stream.close()
    again = session_service_pb2.CloseSessionRequest(session_id="twice", create_token=token)
    assert (await sessions.CloseSession(again)).step == 1
