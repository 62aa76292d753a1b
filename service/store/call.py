"""One call of a script for a batch of items, until each of them has its answer. Knows no connection."""

import secrets
import struct
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from redis.exceptions import ResponseError

from service import metrics
from service.errors import StoreUnavailable
from service.store.endpoint import Node
from service.store.exchange import Command
from service.store.scripts import Claim, Close, Commit, Item, Kill, Script, arguments
from service.values import maker

Answer = bytes | list[bytes]
PASSING = frozenset(
    (b"READONLY", b"MISCONF", b"NOREPLICAS", b"MASTERDOWN", b"CLUSTERDOWN", b"LOADING", b"BUSY", b"NOAUTH", b"NOPERM")
)
"""The store says that nothing was executed, for a reason that passes: the item is sent again."""
SHORT = "short_of_replicas"
_REPLICATED = (Commit, Close, Claim, Kill)
"""Items that may ask for replicas of the store."""
WRITTEN = frozenset((b"OK", b"DUPLICATE", b"CLOSED"))
"""What a caller takes for done: the scripts write before they say so, also where it was done before."""


class Unanswered(StoreUnavailable):
    """No answer came in time; the item may or may not have been executed."""


class Told(NamedTuple):
    """What a script told of an item."""

    answer: Answer
    degraded: bool = False
    """Fewer replicas hold the write than were asked for."""
    in_doubt: bool = False
    """It was sent before, and what became of that is not known: the answer may be that to a second execution."""


_told = maker(Told)
_TAG = struct.Struct("<Q")
_tags = count(secrets.randbits(63))
"""What each call bears and its answer echoes: no other call of this process has it, nor of another but by chance."""


class Call:
    """One EVALSHA, until all its items have their answers."""

    def __init__(self, script: Script, items: Sequence[tuple[int, Item]]) -> None:
        self.script = script
        self.told: dict[int, Told] = {}
        """By their places in the batch."""
        self.ask_at: Node | None = None
        """Where the slot is migrating to: asked there once."""
        self.in_doubt = False
        self.fault: str | None = None
        """Why it is to be sent again; None: it was told who has the slot, nothing is wrong."""
        self.node: Node | None = None
        """Where it was sent last; None: nobody holds its key."""
        self._pack(items)

    def _pack(self, items: Sequence[tuple[int, Item]]) -> None:
        self.items = items
        self.tag = _TAG.pack(next(_tags))
        alone = [item for _, item in items]
        keys = [item.key for item in alone]
        self.command: Command = (b"EVALSHA", self.script.sha, len(keys), *keys, self.tag, *arguments(alone))
        self.replicas = max(map(_replicas, alone))

    def is_answered_by(self, answer: object) -> bool:
        """Whether it is an answer to this call: one that echoes it, or a refusal, which has no echo."""
        if isinstance(answer, list):
            return len(answer) == len(self.items) + 1 and answer[0] == self.tag
        return isinstance(answer, ResponseError)

    def fail(self, kind: str) -> None:
        """Nothing is known of it."""
        self.fault = kind
        metrics.STORE_ERRORS.labels(kind).inc()

    def take(self, results: list[Answer], replicas: int, degrade: bool) -> None:
        """Takes its items' results, of which so many replicas are known to hold the writes."""
        left: list[tuple[int, Item]] = []
        self.fault, any_short = None, False
        may_be_short = self.replicas > replicas
        for (place, item), result in zip(self.items, results, strict=True):
            short = may_be_short and _replicas(item) > replicas and _word(result) in WRITTEN
            if isinstance(result, bytes) and result[:6] == b"ERROR " and result[6:] in PASSING:
                self.fail(result[6:].decode())
                left.append((place, item))
            elif short and not degrade:
                self.fail(SHORT)
                any_short = True  # and yet the primary has executed it
                left.append((place, item))
            else:
                self.told[place] = _told((result, short, self.in_doubt))
        self.in_doubt |= any_short
        if left and len(left) < len(self.items):
            self._pack(left)
        elif not left:
            self.items = ()


def _word(answer: Answer) -> bytes:
    return answer[0] if isinstance(answer, list) else answer.partition(b" ")[0]


def _replicas(item: Item) -> int:
    return item.replicas if isinstance(item, _REPLICATED) else 0
