"""What travels to the store and what it keeps: plain values. A digest is the tuple of everything that led to it."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

Chain = tuple[str, ...]


class Lease(Enum):
    """Of a key: held, past its deadline, or given up (`l` is 0)."""

    HELD = "held"
    LAPSED = "lapsed"
    RELEASED = "released"


class Mode(Enum):
    """Of a claim."""

    CREATE = "create"
    RESUME = "resume"
    EITHER = "either"
    RESTART = "restart"


@dataclass(frozen=True)
class Record:
    """A committed message in the ring; `output` is the nonce of the Session that computed it: last bits may differ."""

    first: int
    last: int
    before: Chain
    after: Chain
    output: str


@dataclass(frozen=True)
class Key:
    """The hash of a session. `touched` is when its time to live was refreshed."""

    incarnation: str
    epoch: int
    owner: str
    displaced: int
    step: int
    h: Chain
    ring: tuple[Record, ...]
    lease: Lease
    touched: int
    closed: bool = False


class Owner(NamedTuple):
    """A claim as its writes name it."""

    incarnation: str
    nonce: str
    epoch: int


NOBODY = Owner("", "", 0)


@dataclass(frozen=True)
class Point:
    """A resume point."""

    step: int
    h: Chain
    durable: int
    store_id: int
    incarnation: str
    undurable: tuple[tuple[int, Chain], ...] = ()
    accept: tuple[int, Chain] | None = None
    skip_lost: bool = False


@dataclass(frozen=True)
class Claim:
    """`token` is "" for a caller without one."""

    token: str
    nonce: str
    mode: Mode
    found: int
    point: Point | None = None


@dataclass(frozen=True)
class Commit:
    """Of one message, or in write-behind of several."""

    owner: Owner
    step_from: int
    h_from: Chain
    records: tuple[Record, ...]
    holds: bool
    """It keeps the lease; a unary call's commit gives it up."""


@dataclass(frozen=True)
class Heartbeat:
    """Keeps a lease."""

    owner: Owner


@dataclass(frozen=True)
class Release:
    """Gives a lease up."""

    owner: Owner


@dataclass(frozen=True)
class Close:
    """The client's end of a session."""

    owner: Owner
    step: int


@dataclass(frozen=True)
class Kill:
    """The operator's, of the life that was looked at."""

    incarnation: str


Write = Commit | Heartbeat | Release | Close
Item = Claim | Write | Kill


class Answer(NamedTuple):
    """What a script says: its word, and where the key stands. `key` only of a granted claim."""

    word: str
    step: int = 0
    epoch: int = 0
    displaced: int = 0
    h: Chain = ()
    key: Key | None = None
