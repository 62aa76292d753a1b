"""The ceiling: a bare bidirectional stream that answers each message at once, with as many bytes as a reply has."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import uvloop

OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 2**20 + 2**16),
    ("grpc.max_send_message_length", 2**24),
    ("grpc.max_concurrent_streams", 2048),
    ("grpc.max_metadata_size", 8192),
    ("grpc.absolute_max_metadata_size", 16384),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)
"""Those of a replica of ours."""


async def stream(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
    """The first message says how long the answers are."""
    reply = b""
    async for request in requests:
        reply = reply or bytes(int(request))
        yield reply


async def main() -> None:
    server = grpc.aio.server(options=OPTIONS)
    handlers = {"Stream": grpc.stream_stream_rpc_method_handler(stream)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmarks.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(Path(os.environ["CELLWIRE_PORT_FILE"]).write_text, f"{port}\n")
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
