"""A TCP proxy before a gRPC port that can fall silent: connections stay, nothing comes through any more."""

import asyncio
from contextlib import suppress


class StallingProxy:
    """Listens on a port of its own on loopback; `async with`."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def target(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stall(self) -> None:
        """From now on nothing passes, in either direction, and nothing is closed."""
        self._flowing.clear()

    async def __aenter__(self) -> "StallingProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
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
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(self._pass(reader, up_writer), self._pass(up_reader, writer))
        finally:
            self._connections.discard(task)
            writer.close()
            up_writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
