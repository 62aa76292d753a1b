"""A wire before a store, which does to answers what networks and broken clients do. It knows RESP's framing.

Faults strike the answers of scripts only (arrays), each in its turn, so that a test says exactly what happens.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import chain, repeat
from pathlib import Path

from tests.access import as_service
from tests.wire import End, Wire


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


class Proxy(Wire):
    """Listens on a unix socket of its own; `async with`."""

    def __init__(self, directory: Path, upstream_url: str, delay: float = 0.05, name: str = "proxy") -> None:
        super().__init__(upstream_url)
        self._path = directory / f"{name}.sock"
        self.delay = delay
        """Seconds of a DELAY."""
        self._faults: Iterator[Fault] = repeat(Fault.NONE)
        self._in_doubt: set[bytes] = set()
        self.on_settled: Callable[[bytes, bytes], None] = lambda request, answer: None
        """Called with a call whose answer had been lost and that was answered when it came again."""
        self.requests: deque[bytes] = deque(maxlen=REMEMBERED)
        """The last calls of scripts that came through, whole."""
        self.held = 0
        """Calls that are kept back."""
        self.let_through = asyncio.Event()
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

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._accept, self._path)

    async def _serve(self, down: End, up: End) -> None:
        """One request at a time: that is how a Link speaks."""
        last = b""
        while True:
            request = await read_frame(down.reader)
            called = b"EVALSHA" in request[:32]
            fault = next(self._faults) if called else Fault.NONE
            self.struck += fault is not Fault.NONE
            if called:
                self.requests.append(request)
            doubtful = called and request in self._in_doubt
            if called:
                self._in_doubt.add(request)
            await self._moves.wait()
            if fault is Fault.CUT_REQUEST:
                up.writer.write(request[: len(request) // 2])
                await up.writer.drain()
                return
            if fault is Fault.HOLD:
                self.held += 1
                await self.let_through.wait()
                self.held -= 1
            up.writer.write(request)
            answer = await read_frame(up.reader)
            await self._moves.wait()
            if fault in (Fault.NONE, Fault.DELAY):
                self._in_doubt.discard(request)
                if doubtful:
                    self.on_settled(request, answer)
            if not answer.startswith(b"*"):
                down.writer.write(answer)
                continue
            match fault:
                case Fault.DROP:
                    return
                case Fault.CUT:
                    down.writer.write(answer[: len(answer) // 2])
                    await down.writer.drain()
                    return
                case Fault.STALL:
                    await down.reader.read()
                    return
                case Fault.SHIFT:
                    down.writer.write(last)
                case Fault.DELAY:
                    await asyncio.sleep(self.delay)
            down.writer.write(answer)
            last = answer


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """One whole RESP2 value, as it stands on the wire."""
    line = await reader.readuntil(b"\r\n")
    kind, size = line[:1], line[1:-2]
    if kind == b"$" and int(size) >= 0:
        return line + await reader.readexactly(int(size) + 2)
    if kind == b"*":
        return line + b"".join([await read_frame(reader) for _ in range(int(size))])
    return line
