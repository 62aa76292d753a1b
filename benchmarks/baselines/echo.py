"""The ceiling: a bare bidirectional stream that answers each message at once, with as many bytes as a reply has."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import uvloop


async def stream(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
    """The first message says how long the answers are."""
    reply = b""
    async for request in requests:
        reply = reply or bytes(int(request))
        yield reply


async def main() -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers = {"Stream": grpc.stream_stream_rpc_method_handler(stream)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmarks.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(Path(os.environ["CELLWIRE_PORT_FILE"]).write_text, f"{port}\n")
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
