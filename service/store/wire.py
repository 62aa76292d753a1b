"""One connection to one server: commands out in one write, their answers in. It tries nothing again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from service import tasks

Command = Sequence[bytes | int]
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


async def converse(
    connection: AbstractConnection, commands: Sequence[Command], sent: Callable[[], None] = lambda: None
) -> list[object]:
    """The answers to commands that go out in one write. A refusal is an answer: a ResponseError as value.
    `sent` is called in between; what it raises is as a fault of the connection.

    Raises:
        RedisError, OSError, TimeoutError: some answers did not come; the connection is closed, as after any error.
    """
    try:
        packed = [pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]  # its stub: of one
        await connection.send_packed_command(packed)
        sent()
        return [await _answer(connection) for _ in commands]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


async def _answer(connection: AbstractConnection) -> object:
    try:
        return await connection.read_response()
    except ResponseError as refusal:
        return refusal


async def ask(connection: AbstractConnection, *command: bytes | int) -> object:
    """The answer to one command.

    Raises:
        RedisError, OSError, TimeoutError: none came, or a refusal.
    """
    (answer,) = await converse(connection, [command])
    if isinstance(answer, ResponseError):
        raise answer
    return answer


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
        self._connection: AbstractConnection | None = None
        self._busy = asyncio.Lock()

    async def exchange(
        self,
        commands: Sequence[Command],
        check: Callable[[list[object]], None] = lambda answers: None,
        sent: Callable[[], None] = lambda: None,
    ) -> list[object]:
        """As `converse`. What `check` raises closes the connection, too."""
        async with self._busy:
            if self._connection is None:
                self._connection = await self._open()
            try:
                answers = await converse(self._connection, commands, sent)
                check(answers)
            except BaseException:
                await self._close()
                raise
            return answers

    async def close(self) -> None:
        """Closes the connection, not amid an exchange; the next exchange opens another."""
        async with self._busy:
            await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
