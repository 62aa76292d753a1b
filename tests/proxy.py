"""A small proxy before a store, which does to answers what networks and broken clients do. It knows RESP's framing.

Faults strike the answers of scripts only (arrays), each in its turn, so that a test says exactly what happens.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from itertools import chain, repeat
from pathlib import Path

from tests.access import as_service


class Fault(Enum):
    """What happens to one call of a script."""

    NONE = "nothing"
    DROP = "executed, its answer lost, the connection reset"
    CUT = "executed, its answer cut in mid-frame, the connection reset"
    CUT_REQUEST = "cut in mid-request, the connection reset: not executed"
    STALL = "executed, its answer never comes, the connection stays"
    SHIFT = "the answer of the connection's last call comes before its own"
    DELAY = "executed, its answer comes late"
    HOLD = "kept back, until the test lets it through"


def chaos(seed: int, rate: float, faults: Iterable[Fault]) -> Iterator[Fault]:
    """At random, but the same each time."""
    draw, kinds = random.Random(seed), tuple(faults)
    while True:
        yield draw.choice(kinds) if draw.random() < rate else Fault.NONE


REMEMBERED = 10_000
"""Requests."""


class Proxy:
    """Listens on a unix socket of its own; `async with`."""

    def __init__(self, directory: Path, upstream_url: str, delay: float = 0.05, name: str = "proxy") -> None:
        self._path = directory / f"{name}.sock"
        self.upstream = upstream_url
        """Where the next connections go."""
        self.delay = delay
        """Seconds of a DELAY."""
        self._faults: Iterator[Fault] = repeat(Fault.NONE)
        self._connections: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._refuses = False
        self._in_doubt: set[bytes] = set()
        self.on_settled: Callable[[bytes, bytes], None] = lambda request, answer: None
        """Called with a call whose answer had been lost and that was answered when it came again."""
        self.requests: deque[bytes] = deque(maxlen=REMEMBERED)
        """The last calls of scripts that came through, whole."""
        self.held = 0
        """Calls that are kept back."""
        self.let_through = asyncio.Event()
        self.accepted = 0
        """Connections so far."""
        self.struck = 0
        """Faults so far."""

    @property
    def url(self) -> str:
        """For Link and the service, who is who it is behind the proxy too."""
        return as_service(f"unix://{self._path}")

    def strike(self, *faults: Fault) -> None:
        """The next calls meet these faults, one each; those after them none."""
        self._faults = chain(faults, repeat(Fault.NONE))

    def slow(self, seconds: float) -> None:
        """From here on every answer comes so much later."""
        self.delay = seconds
        self._faults = repeat(Fault.DELAY)

    def storm(self, faults: Iterator[Fault]) -> None:
        """From here on the calls meet these."""
        self._faults = faults

    def freeze(self) -> None:
        """From here on nothing moves, and no connection breaks."""
        self._open.clear()

    def cut(self) -> None:
        """Every connection breaks, and so does each new one."""
        self._refuses = True
        self.reset()

    def reset(self) -> None:
        """Every connection breaks; new ones may be made."""
        for task in tuple(self._connections):
            task.cancel()

    def mend(self) -> None:
        """Ends `freeze` and `cut`."""
        self._refuses = False
        self._open.set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_unix_server(self._accept, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        self.accepted += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                if not self._refuses:
                    await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request at a time: that is how a Link speaks."""
        up_reader, up_writer = await self._connect()
        last = b""
        try:
            while True:
                request = await read_frame(reader)
                called = b"EVALSHA" in request[:32]
                fault = next(self._faults) if called else Fault.NONE
                self.struck += fault is not Fault.NONE
                if called:
                    self.requests.append(request)
                doubtful = called and request in self._in_doubt
                if called:
                    self._in_doubt.add(request)
                await self._open.wait()
                if fault is Fault.CUT_REQUEST:
                    up_writer.write(request[: len(request) // 2])
                    await up_writer.drain()
                    return
                if fault is Fault.HOLD:
                    self.held += 1
                    await self.let_through.wait()
                    self.held -= 1
                up_writer.write(request)
                answer = await read_frame(up_reader)
                await self._open.wait()
                if fault in (Fault.NONE, Fault.DELAY):
                    self._in_doubt.discard(request)
                    if doubtful:
                        self.on_settled(request, answer)
                if not answer.startswith(b"*"):
                    writer.write(answer)
                    continue
                match fault:
                    case Fault.DROP:
                        return
                    case Fault.CUT:
                        writer.write(answer[: len(answer) // 2])
                        await writer.drain()
                        return
                    case Fault.STALL:
                        await reader.read()
                        return
                    case Fault.SHIFT:
                        writer.write(last)
                    case Fault.DELAY:
                        await asyncio.sleep(self.delay)
                writer.write(answer)
                last = answer
        finally:
            up_writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.upstream.startswith("unix://"):
            return await asyncio.open_unix_connection(self.upstream.removeprefix("unix://"))
        host, _, port = self.upstream.removeprefix("redis://").partition("/")[0].rpartition(":")
        return await asyncio.open_connection(host, int(port))


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """One whole RESP2 value, as it stands on the wire."""
    line = await reader.readuntil(b"\r\n")
    kind, size = line[:1], line[1:-2]
    if kind == b"$" and int(size) >= 0:
        return line + await reader.readexactly(int(size) + 2)
    if kind == b"*":
        return line + b"".join([await read_frame(reader) for _ in range(int(size))])
    return line
