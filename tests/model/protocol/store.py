"""Where the key is: shards whose primaries fail over and lose what their replicas lack, and a slot that moves.

Knows offsets and redirects, nothing of what the scripts do.
"""

from typing import NamedTuple

from tests.model.protocol.items import Key

REPLICAS = 2
"""Of each primary."""


class Version(NamedTuple):
    """What a shard holds at one offset of its history. `ended` is the observer's: the lives closed in this history."""

    key: Key | None
    ended: frozenset[str]


NOTHING = Version(None, frozenset())


class Address(NamedTuple):
    """Where a copy of a call is sent; `asking` after an ASK."""

    shard: int
    asking: bool = False


class Shard:
    """One primary: its history, how far its replicas have it, and what is left of the primary before a failover."""

    def __init__(self) -> None:
        self.history: list[Version] = [NOTHING]
        self.copied = [0] * REPLICAS
        self.deposed: Version | None = None
        """The key at the old primary, to which some replicas of the service may still talk."""
        self.told = 0
        """The observer's: the last offset that an answered write relies on."""

    @property
    def now(self) -> Version:
        return self.history[-1]

    @property
    def offset(self) -> int:
        return len(self.history) - 1

    def write(self, version: Version) -> int:
        """The offset of the write."""
        self.history.append(version)
        return self.offset

    def holders(self, offset: int) -> int:
        """How many replicas have the history up to this offset: what WAIT counts."""
        return sum(copied >= offset for copied in self.copied)

    def fail_over(self, last: int) -> None:
        """A replica that has the history up to `last` becomes the primary."""
        self.deposed = self.now
        del self.history[last + 1 :]
        self.copied = [self.offset] * REPLICAS


class Store:
    """All shards, and which of them the key's slot belongs to."""

    def __init__(self, shards: int) -> None:
        self.shards = [Shard() for _ in range(shards)]
        self.owner = 0
        self.target: int | None = None
        """Where the slot is being moved to."""
        self.store_id = 1
        self.lost = False
        """The observer's: something that was written is gone."""
        self.moved_unsafely = False
        """The observer's: a failover met a move; WAIT does not cover those."""

    @property
    def home(self) -> Shard:
        """The shard that has the key, or would get it."""
        owner = self.shards[self.owner]
        return self.shards[self.target] if self.target is not None and owner.now.key is None else owner

    @property
    def key(self) -> Key | None:
        """The key as a call would meet it now."""
        return self.home.now.key

    def redirect(self, address: Address) -> Address | None:
        """MOVED or ASK: where a copy must go instead; None where it is executed."""
        if address.asking and address.shard in (self.target, self.owner):
            return None
        if address.shard != self.owner:
            return Address(self.owner)
        if self.target is not None and self.shards[self.owner].now.key is None:
            return Address(self.target, asking=True)
        return None

    def move_key(self) -> None:
        """MIGRATE: the key is at the target and no longer at the source."""
        assert self.target is not None
        source = self.shards[self.owner]
        self.shards[self.target].write(source.now)
        source.write(Version(None, source.now.ended))

    def end_move(self) -> None:
        """The slot belongs to the target."""
        assert self.target is not None
        self.owner, self.target = self.target, None

    def empty(self) -> None:
        """Another store answers, with nothing in it."""
        self.lost = True
        self.store_id += 1
        self.target = None
        for shard in self.shards:
            ended = NOTHING.ended
            shard.history = [Version(None, ended)]
            shard.copied = [0] * REPLICAS
            shard.deposed, shard.told = None, 0
