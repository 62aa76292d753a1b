"""How tasks of our own end."""

import asyncio
from contextlib import suppress

from structlog.testing import capture_logs

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


async def test_what_a_task_failed_with_is_in_the_log() -> None:
    async def failing() -> None:
        raise RuntimeError

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    with capture_logs() as lines:
        await tasks.end(task)
    assert [line["event"] for line in lines] == ["task.failed"]
