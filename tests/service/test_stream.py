"""A stream that is ended from outside while its client leaves."""

import asyncio

import pytest

from service.errors import Draining
from service.stream import LiveStream
from service.turn import Turn


@pytest.mark.parametrize("waiting", [True, False], ids=["between two messages", "with one in hand"])
async def test_only_the_cancellation_that_ended_it_is_taken_for_its_own(waiting: bool) -> None:
    """With a message in hand a drain cancels nothing: what comes then is the client's."""
    streams: asyncio.Queue[LiveStream] = asyncio.Queue()

    async def live() -> bool:
        stream = LiveStream(Turn(LiveStream.take), max_timesteps=1)
        stream.waiting = waiting
        await streams.put(stream)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return stream.was_interrupted()
        return False

    task = asyncio.create_task(live())
    (await streams.get()).end(Draining("this replica is going"))
    if not waiting:
        task.cancel()
    assert await task is waiting
    assert task.cancelling() == (0 if waiting else 1)
