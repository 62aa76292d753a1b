"""A wire that can be frozen, slowed, cut and moved: bytes from a TCP port of this machine to whatever is behind it.

It knows nothing of what the bytes mean. A frozen wire is a half-open connection: nothing moves and nobody is told.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

CHUNK = 1 << 16


class Gate:
    """Listens on 127.0.0.1; `async with`. Addresses are host:port or unix:///path."""

    def __init__(self, upstream: str = "") -> None:
        self.upstream = upstream
        """Where the next connections go; none: they are refused."""
        self.delay = 0.0
        """Seconds by which each chunk comes later."""
        self.port = 0
        self._open = asyncio.Event()
        self._open.set()
        self._refuses = False
        self._cut_next = False
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """From here on nothing moves, and no connection breaks."""
        self._open.clear()

    def cut(self) -> None:
        """Every connection is reset, and so is each new one; what was on its way is gone."""
        self._refuses = True
        self.reset()

    def reset(self) -> None:
        """Every connection is reset; new ones may be made."""
        for task in tuple(self._connections):
            task.cancel()

    def reset_in_mid_frame(self) -> None:
        """The next answer is cut in its middle and its connection reset."""
        self._cut_next = True

    def mend(self) -> None:
        """Ends `freeze` and `cut`."""
        self._refuses = False
        self._open.set()

    async def __aenter__(self) -> "Gate":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        up_writer: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError, asyncio.CancelledError):
                if self._refuses or not self.upstream:
                    return
                up_reader, up_writer = await self._connect()
                pumps = [
                    asyncio.create_task(self._pump(reader, up_writer, lambda: False)),
                    asyncio.create_task(self._pump(up_reader, writer, self._is_cut)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.wait(pumps)
        finally:
            self._connections.discard(task)
            for end in (writer, up_writer):
                if end is not None:
                    end.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.upstream.startswith("unix://"):
            return await asyncio.open_unix_connection(self.upstream.removeprefix("unix://"))
        host, _, port = self.upstream.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    def _is_cut(self) -> bool:
        cut, self._cut_next = self._cut_next, False
        return cut

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_cut: Callable[[], bool]
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._open.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if is_cut():
                    writer.write(chunk[: len(chunk) // 2])
                    await writer.drain()
                    return
                writer.write(chunk)
                await writer.drain()
