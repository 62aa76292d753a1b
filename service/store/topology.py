"""Which primary holds a key, and how it is reached: a single server, and what all forms of a store have in common."""

from collections.abc import Sequence

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NoConnection

from service.store.endpoint import Endpoint, Node
from service.store.wire import connect

PRIMARY = Node("", 0)
"""Of a store that has one primary, wherever it is."""


class NoPrimary(NoConnection):
    """Nobody can be asked for the key at this moment."""


class Topology:
    """One server at its URL; the other forms say where they differ."""

    lanes = 1
    """Ways that do not wait for each other; fixed once `start` returned."""
    one_key_a_call = False
    """A call may name the keys of one slot only."""
    in_doubt = False
    """Who holds what is to be learnt again."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.timeout = endpoint.timeout
        """Seconds: one answer."""

    async def start(self) -> None:
        """Learns what can be learnt before the first call; a store that is away is no error."""

    def lane(self, key: bytes) -> int:
        """The lane of a key, always the same."""
        return 0

    async def learn(self) -> None:
        """Asks again who holds what, if that is in doubt and was not asked just now.

        Raises:
            RedisError, OSError, TimeoutError: nothing is known.
        """

    def holder(self, key: bytes) -> Node:
        """The primary that holds a key, as far as is known.

        Raises:
            NoPrimary: there is none.
        """
        return PRIMARY

    def primaries(self) -> Sequence[Node]:
        """All primaries, always in the same order of what they hold.

        Raises:
            NoPrimary: some keys have none.
        """
        return (PRIMARY,)

    def doubt(self) -> None:
        """A primary did not answer, or refused: another may stand for it now."""

    def moved(self, slot: int, node: Node) -> None:
        """A node said who holds a slot."""

    async def open(self, node: Node, name: str) -> AbstractConnection:
        """A connection to a primary.

        Raises:
            RedisError, OSError, TimeoutError: it cannot be reached.
        """
        return await connect(self._endpoint.connection(name))
