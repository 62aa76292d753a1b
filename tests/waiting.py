"""Waiting for what must come: looked at again and again until a deadline, never a sleep that hopes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

LONGEST = 20.0
"""Seconds; a test that waits so long has failed."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Returns once the condition holds; for where no event loop runs."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < deadline, f"not within {LONGEST:.0f} s: {what}"
        time.sleep(0.02)


async def until(condition: Callable[[], object], what: str) -> None:
    """Returns once the condition holds."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < deadline, f"not within {LONGEST:.0f} s: {what}"
        await asyncio.sleep(0.005)


async def eventually(
    condition: Callable[[], Awaitable[object]], what: str, *passing: type[Exception], longest: float = LONGEST
) -> None:
    """As `until`, for what must be asked for; errors of the passing kinds mean not yet."""
    deadline = time.monotonic() + longest
    while True:
        with suppress(*passing):
            if await condition():
                return
        assert time.monotonic() < deadline, f"not within {longest:.0f} s: {what}"
        await asyncio.sleep(0.02)
