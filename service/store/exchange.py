"""Commands out, their answers in, on a connection that redis-py has opened: one exchange at a time.

redis-py connects, secures and authenticates. Then the connection's transport hands what arrives straight to this
protocol: a stream of asyncio's, and a timer for each answer, would cost more than the exchange itself.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from hiredis import Reader, pack_command
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import InvalidResponse, ResponseError

Command = Sequence[bytes | int]
_NOTHING = object()


def nothing() -> None:
    """What is to be done when commands were sent, by default."""


class Exchange(asyncio.Protocol):
    """Takes a connection over, and closes it when something comes that nobody asked for."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        writer = connection._writer  # redis-py has no public way to it: a release that moves it fails every test
        if writer is None:
            raise NoConnection("the connection is closed")
        self._transport: asyncio.WriteTransport = writer.transport
        self._reader = Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_NOTHING)
        self._loop = asyncio.get_running_loop()
        self._answers: list[object] = []
        self._wanted = 0
        self._answered: asyncio.Future[list[object]] | None = None
        """None: nothing was asked."""
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """Looks at the deadline of whatever exchange is under way when it ends: most exchanges start none."""
        self._timer_end = 0.0
        self._transport.set_protocol(self)

    async def converse(self, commands: Sequence[Command], deadline: float, sent: Callable[[], None]) -> list[object]:
        """The answers to commands that go out in one write. A refusal is an answer: a ResponseError as value.
        `sent` is called in between; what it raises is as a fault of the connection. After any error it is to be closed.

        Raises:
            RedisError, OSError, TimeoutError: some answers did not come until the deadline (monotonic).
        """
        if self._transport.is_closing():
            raise NoConnection("the connection is closed")
        self._wanted, self._answers = len(commands), []
        answered: asyncio.Future[list[object]] = self._loop.create_future()
        self._answered = answered
        self._deadline = deadline
        if self._timer is None or self._timer_end > deadline:
            self._look_at(deadline)
        self._transport.write(b"".join([pack_command(tuple(command)) for command in commands]))  # type: ignore[arg-type]  # its stub: of one
        sent()
        return await answered

    async def close(self) -> None:
        """Closes the connection."""
        if self._timer is not None:
            self._timer.cancel()
        self._fail(NoConnection("the connection was closed"))
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        """Of the transport."""
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not _NOTHING:
                self._take(answer)
        except InvalidResponse as error:
            self._fail(error)

    def connection_lost(self, why: Exception | None) -> None:
        """Of the transport."""
        self._fail(why or NoConnection("the server closed the connection"))

    def _take(self, answer: object) -> None:
        if self._answered is None:
            self._transport.close()
        elif isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            self._fail(answer)  # the server says that it is of no use now
        else:
            self._answers.append(answer)
            if len(self._answers) == self._wanted:
                answered, self._answered = self._answered, None
                if not answered.done():
                    answered.set_result(self._answers)

    def _fail(self, error: Exception) -> None:
        answered, self._answered = self._answered, None
        if answered is not None and not answered.done():
            answered.set_exception(error)

    def _look_at(self, time_: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_end = time_
        self._timer = self._loop.call_later(max(0.0, time_ - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._answered is None:
            return
        if self._deadline > time.monotonic():
            self._look_at(self._deadline)
        else:
            self._fail(TimeoutError())
