"""Waiting for what must come: looked at again and again until a deadline, never a sleep that hopes."""

import asyncio
import time
from collections.abc import Callable

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
