"""What comes over a connection that was taken from redis-py: answers, faults, silence, and what nobody asked for."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import AuthenticationError, InvalidResponse, NoScriptError
from redis.exceptions import ConnectionError as NoConnection

from service.store.exchange import Exchange, nothing

PING = [(b"PING",)]
SOON = 5.0


class Peer:
    """The server's end: what it read, and what it is told to say."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def heard(self) -> None:
        """One PING came."""
        assert await self.reader.readexactly(len(b"*1\r\n$4\r\nPING\r\n")) == b"*1\r\n$4\r\nPING\r\n"

    def say(self, text: bytes) -> None:
        """Raw bytes."""
        self.writer.write(text)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Exchange, Peer]]:
    """An exchange and its peer."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    server = await asyncio.start_server(lambda reader, writer: peers.put_nowait(Peer(reader, writer)), "127.0.0.1")
    connection = Connection(
        host="127.0.0.1", port=server.sockets[0].getsockname()[1], protocol=2, driver_info=None, socket_timeout=SOON
    )
    await connection.connect()  # type: ignore[no-untyped-call]
    peer = await peers.get()
    exchange = Exchange(connection)
    try:
        yield exchange, peer
    finally:
        await exchange.close()
        peer.writer.close()
        server.close()
        await server.wait_closed()


def asked(
    exchange: Exchange, seconds: float = SOON, sent: Callable[[], None] = nothing
) -> "asyncio.Task[list[object]]":
    return asyncio.create_task(exchange.converse(PING, time.monotonic() + seconds, sent))


async def test_answers_come_in_their_order_however_they_are_cut() -> None:
    async with connected() as (exchange, peer):
        asking = asyncio.create_task(exchange.converse([*PING, *PING], time.monotonic() + SOON, nothing))
        await peer.heard()
        await peer.heard()
        for piece in (b"*2\r\n$1\r\na\r\n$", b"1\r\nb\r\n:", b"7\r\n"):
            peer.say(piece)
            await peer.writer.drain()
        assert await asking == [[b"a", b"b"], 7]


async def test_a_refusal_is_an_answer_and_a_server_that_is_of_no_use_is_a_fault() -> None:
    async with connected() as (exchange, peer):
        asking = asked(exchange)
        await peer.heard()
        peer.say(b"-NOSCRIPT No matching script\r\n")
        (refusal,) = await asking
        assert isinstance(refusal, NoScriptError)
        asking = asked(exchange)
        await peer.heard()
        peer.say(b"-NOAUTH Authentication required.\r\n")
        with pytest.raises(AuthenticationError):
            await asking


async def test_what_is_no_answer_is_a_fault() -> None:
    async with connected() as (exchange, peer):
        asking = asked(exchange)
        await peer.heard()
        peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(InvalidResponse):
            await asking


@pytest.mark.parametrize("with_one_that_is_wanted", [True, False])
async def test_an_answer_that_nobody_waits_for_is_given_to_nobody(with_one_that_is_wanted: bool) -> None:
    async with connected() as (exchange, peer):
        if with_one_that_is_wanted:
            asking = asked(exchange)
            await peer.heard()
            peer.say(b"+PONG\r\n+ANOTHER\r\n")
            assert await asking == [b"PONG"]
        else:
            peer.say(b"+ANOTHER\r\n")
        async with asyncio.timeout(SOON):
            assert await peer.reader.read() == b""  # the connection is closed
        with pytest.raises(NoConnection):
            await asked(exchange)


async def test_a_connection_that_ends_ends_the_wait() -> None:
    async with connected() as (exchange, peer):
        asking = asked(exchange)
        await peer.heard()
        peer.writer.close()
        with pytest.raises(NoConnection):
            await asking


@pytest.mark.parametrize("before", [SOON, 0.02], ids=["longer", "shorter"])
async def test_silence_ends_at_the_deadline_whatever_the_one_before_was(before: float) -> None:
    async with connected() as (exchange, peer):
        asking = asked(exchange, before)
        await peer.heard()
        peer.say(b"+PONG\r\n")
        assert await asking == [b"PONG"]
        asking = asked(exchange, 0.1)
        await asyncio.wait((asking,), timeout=SOON / 2)
        assert asking.done()
        assert isinstance(asking.exception(), TimeoutError)


async def test_what_fails_when_the_commands_are_sent_is_raised() -> None:
    def fail() -> None:
        raise NoConnection("as a failpoint does")

    async with connected() as (exchange, _):
        with pytest.raises(NoConnection, match="failpoint"):
            await asked(exchange, sent=fail)
