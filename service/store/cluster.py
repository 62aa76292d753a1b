"""A cluster: which primary holds which slot, as any node says. Knows nothing of what is kept in the slots.

redis-py's own cluster client is not used: it refuses EVALSHA in pipelines.
"""

import asyncio
import random
import time
from collections.abc import Sequence

from redis.asyncio.connection import AbstractConnection
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from service.store.endpoint import Endpoint, Node
from service.store.topology import NoPrimary, Topology
from service.store.wire import FAULTS, ask, connect, first

REFRESH_PAUSE = 0.25
"""Seconds between two looks at the slots."""
MOST_ASKED = 6
"""Nodes asked at once."""


class Cluster(Topology):
    """Primaries that share the slots among them. A lane is what one primary held at the start, a range of slots."""

    one_key_a_call = True

    def __init__(self, endpoint: Endpoint, nodes: Sequence[Node]) -> None:
        super().__init__(endpoint)
        self._given = tuple(nodes)
        self._nodes: tuple[Node, ...] = self._given
        """All that were last heard of, replicas too."""
        self._slots: list[Node | None] = [None] * SLOTS
        self._lanes = [slot * len(nodes) // SLOTS for slot in range(SLOTS)]
        self.lanes = len(nodes)
        self.in_doubt = True
        self._next_look = float("-inf")
        self._looking = asyncio.Lock()

    async def start(self) -> None:
        """Fixes the lanes: one a primary, or equal ranges for the URL's nodes if no node answers."""
        try:
            await self.learn()
            primaries = self.primaries()
        except FAULTS:
            return
        index = {node: lane for lane, node in enumerate(primaries)}
        self._lanes = [index[node] for node in self._slots if node]
        self.lanes = len(primaries)

    def lane(self, key: bytes) -> int:
        """That of the key's slot."""
        return self._lanes[key_slot(key)]

    async def learn(self) -> None:
        """Looks at the slots again if they are in doubt and the last look is not too new."""
        if not self.in_doubt or time.monotonic() < self._next_look:
            return
        async with self._looking:
            if not self.in_doubt or time.monotonic() < self._next_look:
                return
            try:
                asked = random.sample(self._nodes, min(MOST_ASKED, len(self._nodes)))
                await first(map(self._ask, {*asked, *self._given}), self._adopt)
            except FAULTS:
                if not any(self._slots):
                    raise
            finally:
                self._next_look = time.monotonic() + REFRESH_PAUSE

    def holder(self, key: bytes) -> Node:
        """That of the key's slot."""
        node = self._slots[key_slot(key)]
        if node is None:
            raise NoPrimary("nobody holds the slot")
        return node

    def primaries(self) -> Sequence[Node]:
        """By their first slots: whoever stands in for a primary takes its place."""
        if None in self._slots:
            raise NoPrimary("nobody holds some slots")
        return tuple(dict.fromkeys(node for node in self._slots if node))

    def doubt(self) -> None:
        """The slots are looked at again before the next call."""
        self.in_doubt = True

    def moved(self, slot: int, node: Node) -> None:
        """Believed at once; others may have moved with it."""
        self._slots[slot] = node
        self.in_doubt = True

    async def open(self, node: Node, name: str) -> AbstractConnection:
        """A connection to a node."""
        return await connect(self._endpoint.connection(name, node))

    async def _ask(self, node: Node) -> tuple[Node, object]:
        connection = self._endpoint.connection("slots", node)
        try:
            async with asyncio.timeout(self.timeout / 2):
                return node, await ask(connection, b"CLUSTER", b"SLOTS")
        finally:
            await connection.disconnect(nowait=True)

    async def _adopt(self, answered: tuple[Node, object]) -> None:
        asked, ranges = answered
        if not isinstance(ranges, list) or not ranges:
            raise NoPrimary("the node knows of no slots")
        slots: list[Node | None] = [None] * SLOTS
        nodes: dict[Node, None] = {}
        try:
            for start, end, *holders in ranges:
                # A node that does not know its own name says none: it is the one that was asked.
                named = [Node((host or b"").decode() or asked.host, port) for host, port, *_ in holders]
                nodes |= dict.fromkeys(named)
                slots[start : end + 1] = [named[0]] * (end + 1 - start)
            if len(slots) != SLOTS:
                raise ValueError("more slots than there are")
        except (TypeError, ValueError, IndexError, AttributeError):
            raise NoPrimary("the node's slots cannot be read") from None
        self._slots, self._nodes, self.in_doubt = slots, tuple(nodes), False
