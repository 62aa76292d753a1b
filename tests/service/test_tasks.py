"""How tasks of our own end."""

import asyncio
from contextlib import suppress

from service import tasks


async def test_a_task_ends_though_a_cancellation_was_dropped_on_its_way() -> None:
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await tasks.end(task)
    assert task.cancelled()
