"""Ending tasks. Knows nothing of what they do."""

import asyncio
from typing import Any

ASK_AGAIN = 0.1
"""Seconds."""


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels a task and returns once it is done, whatever became of it.

    One request is not enough: before Python 3.12 `asyncio.wait_for`, which redis-py sends with, drops a cancellation
    that meets its result, and the task would go on for ever.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=ASK_AGAIN)
    if not task.cancelled():
        task.exception()  # looked at, so that the event loop does not report it
