"""A wire that can be frozen, cut, reset and mended. What goes over it is its kinds' business.

A frozen wire is a half-open connection: nothing moves and nobody is told.
"""

import asyncio
from contextlib import suppress
from typing import NamedTuple, Self


class End(NamedTuple):
    """Of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Wire:
    """What listens and pumps; `async with`. A kind says where it listens and how it serves a connection."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        """Where the next connections go: unix:///path, host:port, redis://host:port/n. None: they are refused."""
        self.accepted = 0
        """Connections so far."""
        self._connections: set[asyncio.Task[None]] = set()
        self._moves = asyncio.Event()
        self._moves.set()
        self._refuses = False

    def freeze(self) -> None:
        """From here on nothing moves, and no connection breaks."""
        self._moves.clear()

    def cut(self) -> None:
        """Every connection breaks, and so does each new one; what was on its way is gone."""
        self._refuses = True
        self.reset()

    def reset(self) -> None:
        """Every connection breaks; new ones may be made."""
        for task in tuple(self._connections):
            task.cancel()

    def mend(self) -> None:
        """Ends `freeze` and `cut`."""
        self._refuses = False
        self._moves.set()

    async def __aenter__(self) -> Self:
        self._server = await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()

    async def _listen(self) -> asyncio.Server:
        """Gives each connection to `_accept`."""
        raise NotImplementedError

    async def _serve(self, down: End, up: End) -> None:
        """One connection and the one upstream that was made for it, until it returns."""
        raise NotImplementedError

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        self.accepted += 1
        ends = [End(reader, writer)]
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                if self._refuses or not self.upstream:
                    return
                ends.append(await self._connect())
                await self._serve(*ends)
        finally:
            self._connections.discard(task)
            for end in ends:
                end.writer.transport.abort()

    async def _connect(self) -> End:
        if self.upstream.startswith("unix://"):
            return End(*await asyncio.open_unix_connection(self.upstream.removeprefix("unix://")))
        host, _, port = self.upstream.removeprefix("redis://").partition("/")[0].rpartition(":")
        return End(*await asyncio.open_connection(host, int(port)))
