"""One worker: a replica in a process of its own, seen from both ends of the pipe to its supervisor.

Through the pipe the worker tells once that it serves, or why it cannot; the supervisor passes signals on. The pipe's
end tells the worker that the supervisor is gone: no worker outlives it.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import structlog

from service import logs, loop
from service.settings import CannotStart, Settings

logger = structlog.get_logger(__name__)

LATE_SECONDS = 5.0
"""A worker that has not ended so long after the grace of its drain is made to."""

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy gRPC's threads in the middle of what they do


@dataclass(frozen=True, slots=True)
class Serving:
    """The worker serves; its own metrics and readiness are on this port of 127.0.0.1."""

    admin_port: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The worker cannot serve with these settings; the text is one line."""

    why: str


class Worker:
    """A worker as its supervisor sees it. It may be started again once it has ended."""

    def __init__(self, number: int, settings: Settings) -> None:
        self.number = number
        self.admin_port = 0
        """0 unless it serves."""
        self._settings = settings
        self._process: BaseProcess | None = None

    async def start(self) -> None:
        """Returns once it serves.

        Raises:
            CannotStart: it cannot, or it died before; to be told in one line.
        """
        self._pipe, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=main, args=(self.number, self._settings, theirs), name=f"worker-{self.number}", daemon=True
        )
        try:
            process.start()
        except OSError:
            raise CannotStart(f"no process can be started for worker {self.number}") from None
        self._process = process
        theirs.close()
        await _readable(self._pipe.fileno())
        try:
            told = self._pipe.recv()
        except (EOFError, OSError):
            told = Refused(f"worker {self.number} ended with status {await self.ended()} before it served")
        if isinstance(told, Refused):
            raise CannotStart(told.why)
        self.admin_port = told.admin_port
        logger.info("worker.serving", worker=self.number, pid=process.pid)

    async def ended(self) -> int:
        """Waits for its end: the exit status, negative if a signal killed it; 0 if it was never started."""
        if self._process is None:
            return 0
        await _readable(self._process.sentinel)
        self._process.join()
        self.admin_port = 0
        return self._process.exitcode or 0

    def stop(self) -> None:
        """Passes a signal on: the first one drains it, the second one ends the grace. Killed if it does not serve."""
        if not self.admin_port:
            self.kill()
            return
        with suppress(OSError):
            self._pipe.send_bytes(b"stop")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process:
            self._process.kill()


async def _readable(descriptor: int) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


def main(number: int, settings: Settings, supervisor: Connection) -> None:
    """What runs in the worker's process, until its supervisor stops it or is gone."""
    # A terminal, or who stops a whole group of processes, sends these to workers too: the supervisor counts them.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    logs.configure(settings.log_format, settings.log_level)
    structlog.contextvars.bind_contextvars(worker=number)
    loop.run(_serve(settings, supervisor))


async def _serve(settings: Settings, supervisor: Connection) -> None:
    from service.server import Server  # only here: a supervisor without ONNX Runtime and gRPC is half as large

    loop, server = asyncio.get_running_loop(), Server(settings)
    patience = settings.drain_seconds + LATE_SECONDS
    try:
        async with server:
            with suppress(OSError):  # the supervisor is gone: to be seen at once
                supervisor.send(Serving(server.admin_port))
            threading.Thread(
                target=_obey, args=(supervisor, lambda: loop.call_soon_threadsafe(server.stop), patience), daemon=True
            ).start()
            await server.run()
    except CannotStart as error:
        with suppress(OSError):
            supervisor.send(Refused(str(error)))


def _obey(supervisor: Connection, stop: Callable[[], object], patience: float) -> None:
    """Stops the server at each message, and at the end of the pipe: then also a server that does not answer.

    In a thread, so that it works while the event loop does not.
    """
    with suppress(RuntimeError):  # the event loop is closed: the worker is about to end
        with suppress(EOFError, OSError):
            while True:
                supervisor.recv_bytes()
                stop()
        stop()
    time.sleep(patience)
    os._exit(1)
