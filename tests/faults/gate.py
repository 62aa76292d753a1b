"""A wire of a TCP port of this machine to whatever is behind it. It knows nothing of what the bytes mean."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tests.wire import End, Wire

CHUNK = 1 << 16


class Gate(Wire):
    """Listens on 127.0.0.1; `async with`."""

    def __init__(self, upstream: str = "") -> None:
        super().__init__(upstream)
        self.delay = 0.0
        """Seconds by which each chunk comes later."""
        self.port = 0
        self._cut_next = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def reset_in_mid_frame(self) -> None:
        """The next answer is cut in its middle and its connection reset."""
        self._cut_next = True

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, down: End, up: End) -> None:
        pumps = [
            asyncio.create_task(self._pump(down.reader, up.writer, lambda: False)),
            asyncio.create_task(self._pump(up.reader, down.writer, self._is_cut)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)

    def _is_cut(self) -> bool:
        cut, self._cut_next = self._cut_next, False
        return cut

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_cut: Callable[[], bool]
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._moves.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if is_cut():
                    writer.write(chunk[: len(chunk) // 2])
                    await writer.drain()
                    return
                writer.write(chunk)
                await writer.drain()
