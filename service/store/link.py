"""One connection to a Redis primary that calls scripts, one call at a time.

Every answer must echo the call's random tag and have one result an item; anything else closes the connection, because
a shifted answer would hand one session's state to another. A call whose answer did not come is in doubt: the very
same call goes out again on a new connection until its deadline. redis-py's own retries are off.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service import metrics
from service.errors import StoreUnavailable
from service.store.scripts import Item, Script

logger = structlog.get_logger(__name__)

FIRST_PAUSE, LAST_PAUSE = 0.02, 0.5
Answer = bytes | list[bytes]
Command = Sequence[bytes | int]
Send = Callable[[Command], Awaitable[object]]

# The store says that nothing was executed, for a reason that passes for all items alike: the call is sent again.
PASSING = frozenset({b"READONLY", b"MISCONF", b"NOREPLICAS", b"MASTERDOWN", b"CLUSTERDOWN", b"LOADING", b"BUSY"})


class WrongAnswer(RedisError):
    """The answer is not that of the call: the connection is out of step."""


class NotNow(RedisError):
    """The store refuses every call for the moment."""


async def _ask_nothing(send: Send) -> None:
    """The first question on a connection whose store need not be known."""


class Link:
    """Calls scripts on one connection of its own, in order."""

    def __init__(
        self, url: str, timeout: float, name: str, meet: Callable[[Send], Awaitable[None]] = _ask_nothing
    ) -> None:
        pool: Any = ConnectionPool.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            protocol=2,
            client_name=f"cellwire-{name}",
        )
        self._connection: AbstractConnection = pool.make_connection()
        self._timeout = timeout
        self._meet = meet
        """What is asked first on each new connection."""
        self._busy = asyncio.Lock()
        self._gave_up = False
        """The last call found nobody: until one does, calls try once instead of queueing up for their deadlines."""

    async def aclose(self) -> None:
        """Closes the connection."""
        await self._connection.disconnect(nowait=True)

    async def call(self, script: Script, items: Sequence[Item], deadline: float) -> list[Answer]:
        """One answer an item, in their order.

        Args:
            script: the script.
            items: each with the key of its session; no two of one session.
            deadline: monotonic time after which the call is given up.

        Raises:
            StoreUnavailable: no answer came in time; the call may or may not have been executed.
        """
        tag = secrets.token_bytes(8)
        keys = [item.key for item in items]
        command: list[bytes | int] = [b"EVALSHA", script.sha, len(keys), *keys, tag, *(item.pack() for item in items)]
        pause = FIRST_PAUSE
        async with self._busy:
            if time.monotonic() > deadline:  # spent in the queue: the connection is not to blame
                raise StoreUnavailable("the store does not answer in time")
            while True:
                try:
                    left = max(FIRST_PAUSE, deadline - time.monotonic())
                    async with asyncio.timeout(min(self._timeout * 2, left)):
                        answers = await self._once(script, command, tag, len(keys))
                    self._gave_up = False
                    return answers
                except BaseException as error:
                    await self._connection.disconnect(nowait=True)
                    if not isinstance(error, RedisError | OSError | TimeoutError):
                        raise
                    kind = type(error).__name__
                    metrics.STORE_ERRORS.labels(kind).inc()
                    if self._gave_up or time.monotonic() + pause > deadline:
                        self._gave_up = True
                        logger.warning("store.gave_up", script=script.name, items=len(keys), kind=kind)
                        raise StoreUnavailable("the store does not answer") from None
                await asyncio.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))
                pause = min(2 * pause, LAST_PAUSE)

    async def _once(self, script: Script, command: Command, tag: bytes, count: int) -> list[Answer]:
        if not self._connection.is_connected:
            await self._connection.connect()  # type: ignore[no-untyped-call]
            await self._meet(self._send)
        try:
            answer = await self._send(command)
        except NoScriptError:
            await self._send((b"SCRIPT", b"LOAD", script.source))
            answer = await self._send(command)
        if not isinstance(answer, list) or len(answer) != count + 1 or answer[0] != tag:
            metrics.STORE_ERRORS.labels("wrong_answer").inc()
            raise WrongAnswer("the answer does not echo the call")
        for result in answer[1:]:
            if isinstance(result, bytes) and result[:6] == b"ERROR " and result[6:] in PASSING:
                raise NotNow(result[6:].decode())
        return answer[1:]

    async def _send(self, command: Command) -> object:
        await self._connection.send_packed_command(self._connection.pack_command(*command))
        answer = await self._connection.read_response()
        if isinstance(answer, ResponseError):
            raise answer
        return answer
