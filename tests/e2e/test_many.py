"""Many sessions on one stream: each answered as on a stream of its own, and failing by itself."""

import grpc
import numpy as np

from models.cells import checked
from tests.many import WireMany, numbers, output


async def test_each_session_of_a_message_is_answered_with_its_own_state(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    handles = range(1, 101)
    opened = await many.open({handle: f"s{handle}" for handle in handles})
    assert all(told.created and told.step == 0 for told in opened.values())
    inputs = np.random.default_rng(1).integers(0, 10_000, (5, 100))
    for step, row in enumerate(inputs, 1):
        replies = await many.step(handles, [step] * 100, numbers(*row))
        assert [reply.step for reply in replies] == [step] * 100
        answers = [int(output(reply)[0]) for reply in replies]
        assert answers == [checked([int(x) for x in column])[-1] for column in inputs[:step].T]
    await many.close()
