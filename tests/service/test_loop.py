"""The event loop: what gRPC tells it comes together, and nothing of it is missed."""

import os
import socket
import subprocess
import sys

import pytest

from service import loop

ECHO = """
import asyncio, os
import grpc
from service import loop

takes, take = [], loop._take
loop._take = lambda *args: (takes.append(1), take(*args))

async def echo(requests, context):
    async for request in requests:
        yield request

async def main():
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("t.Echo", {"Talk": grpc.stream_stream_rpc_method_handler(echo)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        talk = channel.stream_stream("/t.Echo/Talk")
        async def stream(name):
            async def messages():
                for number in range(50):
                    yield b"%d of %d" % (number, name)
            assert [answer async for answer in talk(messages())] == [b"%d of %d" % (n, name) for n in range(50)]
        await asyncio.gather(*map(stream, range(20)))
    await server.stop(0)
    print(len(takes), os.sched_getscheduler(0))

loop.run(main())
"""


@pytest.mark.parametrize("written", [1, 2, 7, 4096, 9000])
def test_of_the_bytes_in_the_pipe_one_stays_for_grpc(written: int) -> None:
    """gRPC reads it, and only then looks at its events: one that comes in between has a byte of its own."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(b"1" * written)
        left: list[int] = []
        loop._take(ours, lambda: left.append(len(ours.recv(1 << 16))))
    assert left == [max(1, written - len(loop._unread) + 1)]


def test_grpc_s_events_come_through_the_loop_s_own_reader() -> None:
    """A release of gRPC that registers otherwise would go on as before, only slower: it shows here."""
    told = subprocess.check_output([sys.executable, "-c", ECHO], text=True, timeout=60)
    takes, policy = map(int, told.split())
    assert takes > 0
    if sys.platform == "linux":
        assert policy == os.SCHED_BATCH
