"""A primary that sentinels watch over: they are asked where it is at each connect. Knows nothing of what it keeps."""

import asyncio
from collections.abc import Sequence

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError

from service.store.endpoint import Endpoint, Node
from service.store.topology import NoPrimary, Topology
from service.store.wire import ask, first


class Sentinel(Topology):
    """The primary of one service. What a sentinel says may be old: the node itself must say that it is the primary."""

    def __init__(self, endpoint: Endpoint, sentinels: Sequence[Node], service: str) -> None:
        super().__init__(endpoint)
        self._sentinels = sentinels
        self._service = service.encode()

    async def open(self, node: Node, name: str) -> AbstractConnection:
        """A connection to the primary that any sentinel names and that agrees."""
        tried: set[Node] = set()

        async def use(named: Node) -> AbstractConnection:
            if named in tried:
                raise NoPrimary("another sentinel says the same")
            tried.add(named)
            return await self._primary(named, name)

        return await first(map(self._ask, self._sentinels), use)

    async def _ask(self, sentinel: Node) -> Node:
        """Where one sentinel believes the primary. Sentinels seldom want credentials; those of the store are tried."""
        question = (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service)
        for anonymous in (True, False):
            connection = self._endpoint.connection("sentinel", sentinel, anonymous)
            try:
                async with asyncio.timeout(self.timeout / 2):
                    answer = await ask(connection, *question)
            except (AuthenticationError, NoPermissionError):
                if not anonymous:
                    raise
            else:
                if not isinstance(answer, list):
                    raise NoPrimary("the sentinel does not know the service")
                try:
                    return Node(answer[0].decode(), int(answer[1]))
                except (TypeError, ValueError, IndexError, AttributeError):
                    raise NoPrimary("the sentinel's answer cannot be read") from None
            finally:
                await connection.disconnect(nowait=True)
        raise AssertionError

    async def _primary(self, node: Node, name: str) -> AbstractConnection:
        """Half of the time of an answer: one that hangs must not use up what a failover leaves."""
        connection = self._endpoint.connection(name, node)
        try:
            async with asyncio.timeout(self.timeout / 2):
                role = await ask(connection, b"ROLE")
            if not isinstance(role, list) or role[:1] != [b"master"]:
                raise NoPrimary("the node is not the primary")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection
