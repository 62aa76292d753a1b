"""The way of one timestep through a real replica."""

import os

import grpc
import numpy as np

from cellwire.v1 import cell_service_pb2 as pb
from models.cells import checked
from tests.harness import WireStream, arrays, number


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
