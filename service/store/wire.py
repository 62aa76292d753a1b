"""One connection to one server: commands out in one write, their answers in. It tries nothing again."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from service import tasks
from service.store.exchange import Command, Exchange, nothing

Send = Callable[[Command], Awaitable[object]]
Question = TypeVar("Question")
Result = TypeVar("Result")

FAULTS = (RedisError, OSError, TimeoutError)
"""What a connection may fail with."""


async def connect(connection: AbstractConnection) -> AbstractConnection:
    """The connection, connected.

    Raises:
        RedisError, OSError, TimeoutError: it could not be, and is closed.
    """
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


async def ask(connection: AbstractConnection, *command: bytes | int) -> object:
    """The answer to one command on a connection that is not in use yet.

    Raises:
        RedisError, OSError, TimeoutError: none came, or a refusal; the connection is closed.
    """
    try:
        await connection.send_packed_command([pack_command(command)])  # type: ignore[arg-type]  # its stub: of one
        return await connection.read_response()
    except ResponseError:
        raise
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


async def first(
    questions: Iterable[Coroutine[Any, Any, Question]], use: Callable[[Question], Awaitable[Result]]
) -> Result:
    """Puts all questions at once: what `use` makes of the first answer that it can use.

    Raises:
        RedisError, OSError, TimeoutError: the last fault, when there is no such answer.
    """
    asked = [asyncio.create_task(question) for question in questions]
    fault: BaseException = TimeoutError("nobody to ask")
    try:
        for answer in asyncio.as_completed(asked):
            try:
                return await use(await answer)
            except FAULTS as error:
                fault = error
        raise fault
    finally:
        for task in asked:
            await tasks.end(task)


class Wire:
    """A connection that is opened when it is first used, and again after a fault; one exchange at a time."""

    def __init__(self, open_: Callable[[], Awaitable[AbstractConnection]]) -> None:
        self._open = open_
        self._exchange: Exchange | None = None
        self._busy = asyncio.Lock()

    async def exchange(
        self,
        commands: Sequence[Command],
        deadline: float,
        check: Callable[[list[object]], None] = lambda answers: None,
        sent: Callable[[], None] = nothing,
    ) -> list[object]:
        """The answers to commands that go out in one write, until the monotonic deadline. A refusal is an answer: a
        ResponseError as value. `sent` is called in between; what it or `check` raises closes the connection, too.

        Raises:
            RedisError, OSError, TimeoutError: some answers did not come; the connection is closed, as after any error.
        """
        if self._exchange is None or self._busy.locked():  # a timer costs as much as an answer
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._busy.acquire()
        else:
            await self._busy.acquire()
        try:
            if self._exchange is None:
                async with asyncio.timeout(deadline - time.monotonic()):
                    self._exchange = Exchange(await self._open())
            answers = await self._exchange.converse(commands, deadline, sent)
            check(answers)
        except BaseException:
            await self._close()
            raise
        finally:
            self._busy.release()
        return answers

    async def close(self) -> None:
        """Closes the connection, not amid an exchange; the next exchange opens another."""
        async with self._busy:
            await self._close()

    async def _close(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.close()
