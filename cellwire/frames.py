"""Where the frames of a stream come from: iterables, async iterables, and sources that make a thread wait."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import TypeVar

from cellwire.tensors import Frame

Item = TypeVar("Item")
Frames = Iterable[Frame] | AsyncIterable[Frame]

_AHEAD = 8
"""Frames drawn by a thread before they are wanted."""


async def each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Item, None]:
    """The items one by one, whatever kind of iterable they are in."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def grouped(frames: Frames, timesteps: int) -> AsyncGenerator[list[Frame], None]:
    """The frames in lists of T, the last one shorter; lists of one if `timesteps` is 0."""
    group: list[Frame] = []
    async with aclosing(each(frames)) as source:
        async for frame in source:
            group.append(frame)
            if len(group) >= timesteps:
                yield group
                group = []
    if group:
        yield group


async def drawn(frames: Iterable[Frame]) -> AsyncGenerator[Frame, None]:
    """The frames of a source that may wait, drawn by a thread that ends when nobody wants more."""
    loop = asyncio.get_running_loop()
    drawn: asyncio.Queue[tuple[Frame | None, BaseException | None, bool]] = asyncio.Queue()
    ahead = threading.Semaphore(_AHEAD)
    left = threading.Event()

    def put(frame: Frame | None, error: BaseException | None, more: bool) -> bool:
        ahead.acquire()
        if not left.is_set():
            loop.call_soon_threadsafe(drawn.put_nowait, (frame, error, more))
        return not left.is_set()

    def draw() -> None:
        try:
            for frame in frames:
                if not put(frame, None, True):
                    return
        except BaseException as error:  # the session's side raises it
            put(None, error, False)
        else:
            put(None, None, False)

    threading.Thread(target=draw, name="cellwire frames", daemon=True).start()
    try:
        while True:
            frame, error, more = await drawn.get()
            ahead.release()
            if error is not None:
                raise error
            if not more:
                return
            assert frame is not None  # noqa: S101  for the type checker
            yield frame
    finally:
        left.set()
        ahead.release()
