"""The event loop of a replica: uvloop's, woken as seldom by gRPC as may be.

gRPC takes its events in threads of its own and tells the event loop of each by a byte through a pipe. Left alone,
such a thread displaces the loop from its core at once for every message received and every message sent.
"""

import os
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import uvloop

Result = TypeVar("Result")

_GRPC_EVENTS = "PollerCompletionQueue"
"""The class of grpc.aio's whose events come by bytes in a pipe, each of which stands for all that are there."""
_unread = bytearray(1 << 12)


class _Loop(uvloop.Loop):
    """Takes the bytes that gRPC has written meanwhile at once instead of one by one."""

    def add_reader(self, file: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        if isinstance(file, socket.socket) and isinstance(callback, partial):
            owner = getattr(callback.func, "__self__", None)
            if type(owner).__name__ == _GRPC_EVENTS:
                callback = partial(_take, file, callback)
        super().add_reader(file, callback, *args)


def _take(pipe: socket.socket, take_events: Callable[[], None]) -> None:
    """One byte stays, which gRPC reads itself before it takes its events: none that comes meanwhile is missed."""
    written = pipe.recv_into(_unread, 0, socket.MSG_PEEK)
    if written > 1:
        pipe.recv_into(_unread, written - 1)
    take_events()


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs the coroutine in an event loop of its own, as `asyncio.run` does.

    All threads that are started from here on are the scheduler's batch work: one that is woken waits for the core
    until the one that has it waits for something, too, so that what woke it comes together.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it: then it costs more
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    return uvloop.run(main, loop_factory=_Loop)
