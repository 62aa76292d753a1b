"""The port that workers share."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest

from service.port import hold
from tests.harness import ipv6

HOST = "127.0.0.1"


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(port: int, *, share: bool) -> socket.socket:
    """As gRPC does it."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
    server.bind((HOST, port))
    server.listen()
    return server


def held(sockets: ExitStack, port: int = 0) -> int:
    return int(sockets.enter_context(hold(HOST, port)).getsockname()[1])


def test_several_listen_beside_the_holder_and_every_connection_reaches_one_of_them(sockets: ExitStack) -> None:
    port = held(sockets)
    servers = [sockets.enter_context(listen(port, share=True)) for _ in range(2)]
    for server in servers:
        server.setblocking(False)
    reached = set()
    for _ in range(64):
        sockets.enter_context(socket.create_connection((HOST, port)))
        for number, server in enumerate(servers):
            try:
                connection, _ = server.accept()
            except BlockingIOError:
                continue
            sockets.enter_context(connection)
            reached.add(number)
    assert reached == {0, 1}
    for server in servers:
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("share", [False, True])
def test_a_port_that_somebody_listens_on_is_not_held(sockets: ExitStack, share: bool) -> None:
    taken = sockets.enter_context(listen(0, share=share))
    with pytest.raises(OSError, match="in use"):
        hold(HOST, taken.getsockname()[1])


def test_a_port_that_another_holds_is_not_held_before_anybody_listens(sockets: ExitStack) -> None:
    port = held(sockets)
    with pytest.raises(OSError, match="in use"):
        hold(HOST, port)


@pytest.mark.parametrize("share", [False, True])
def test_connections_that_linger_do_not_keep_the_port(sockets: ExitStack, share: bool) -> None:
    with listen(0, share=share) as server:
        port = server.getsockname()[1]
        client = sockets.enter_context(socket.create_connection((HOST, port)))
        connection, _ = server.accept()
        connection.close()  # who closes first keeps the connection in TIME_WAIT
        assert client.recv(1) == b""
        client.close()
    assert held(sockets, port) == port
    sockets.enter_context(listen(port, share=True))


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", pytest.param("[::1]", marks=ipv6)])
async def test_a_host_is_what_grpc_takes(host: str) -> None:
    with hold(host, 0) as holder:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
        port = holder.getsockname()[1]
        assert server.add_insecure_port(f"{host}:{port}") == port
