"""The Lua scripts and their items: what is packed for each, and what each answer means.

Knows the wire form of the scripts only; sends nothing. The rules stand in the Lua files themselves.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import NamedTuple

from service.values import DIGEST_BYTES, MAX_STEP, Checkpoint, Mode, ResumePoint

NONCE_BYTES = 16
AS_IT_IS = 0
"""The time to live by which a claim, a commit or a release leaves the expiry where it is."""


class Script:
    """One Lua script with the SHA-1 that names it on the store."""

    def __init__(self, name: str) -> None:
        lua = files("service.store").joinpath("lua")
        self.name = name
        self.source = (lua.joinpath("prelude.lua").read_text() + lua.joinpath(f"{name}.lua").read_text()).encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


CLAIM = Script("claim")
COMMIT = Script("commit")
HEARTBEAT = Script("heartbeat")
RELEASE = Script("release")
CLOSE = Script("close")
KILL = Script("kill")
PEEK = Script("peek")

_OWNER = struct.Struct("<16s16s")
_COMMIT = struct.Struct("<16s16s16s16sIIHH")
_LENGTH = struct.Struct("<I")
_pack_commit = _COMMIT.pack


def _short(text: bytes) -> bytes:
    return bytes((len(text),)) + text


def _number(value: int) -> bytes:
    return _short(b"%d" % value)


def _long(text: bytes) -> bytes:
    return _LENGTH.pack(len(text)) + text


class Owner(NamedTuple):
    """A claim: the fencing token of one in-memory Session."""

    key: bytes
    incarnation: bytes
    nonce: bytes
    epoch: int


class Commit(NamedTuple):
    """Writes the checkpoint at n_to, computed from the one at n_from. A lease of 0 releases with it."""

    owner: Owner
    n_from: int
    h_from: bytes
    n_to: int
    h_to: bytes
    state: bytes
    records: tuple[bytes, ...]
    """Of the messages in between, oldest first: at least one."""
    ttl_ms: int
    lease_ms: int
    ring: int
    replicas: int = 0
    """Of the store, that must hold the write before it is answered."""

    @property
    def key(self) -> bytes:
        """Of the session."""
        return self.owner.key

    def pack(self) -> bytes:
        """As commit.lua unpacks it: without its state and records."""
        (_, incarnation, nonce, epoch), n_from, h_from, n_to, h_to, _, records, ttl_ms, lease_ms, ring, _ = self
        head = _pack_commit(incarnation, nonce, h_from, h_to, ttl_ms, lease_ms, ring, len(records))
        e, n, m = b"%d" % epoch, b"%d" % n_from, b"%d" % n_to
        return b"%b%c%b%c%b%c%b" % (head, len(e), e, len(n), n, len(m), m)  # as _number: three a timestep


class Heartbeat(NamedTuple):
    """Keeps a claim's lease."""

    owner: Owner
    ttl_ms: int
    lease_ms: int

    @property
    def key(self) -> bytes:
        """Of the session."""
        return self.owner.key

    def pack(self) -> bytes:
        """As heartbeat.lua unpacks it."""
        owner = self.owner
        times = struct.pack("<II", self.ttl_ms, self.lease_ms)
        return _OWNER.pack(owner.incarnation, owner.nonce) + _number(owner.epoch) + times


class Release(NamedTuple):
    """Gives a claim's lease up."""

    owner: Owner
    ttl_ms: int

    @property
    def key(self) -> bytes:
        """Of the session."""
        return self.owner.key

    def pack(self) -> bytes:
        """As release.lua unpacks it."""
        owner = self.owner
        return _OWNER.pack(owner.incarnation, owner.nonce) + _number(owner.epoch) + _LENGTH.pack(self.ttl_ms)


class Close(NamedTuple):
    """Ends a session whose last step is n."""

    owner: Owner
    n: int
    tombstone_ms: int
    replicas: int = 0

    @property
    def key(self) -> bytes:
        """Of the session."""
        return self.owner.key

    def pack(self) -> bytes:
        """As close.lua unpacks it."""
        owner = self.owner
        head = _OWNER.pack(owner.incarnation, owner.nonce) + _number(owner.epoch)
        return head + _number(self.n) + _LENGTH.pack(self.tombstone_ms)


class Kill(NamedTuple):
    """An operator's close of one life of a session."""

    key: bytes
    incarnation: bytes
    tombstone_ms: int
    replicas: int = 0

    def pack(self) -> bytes:
        """As kill.lua unpacks it."""
        return self.incarnation + _LENGTH.pack(self.tombstone_ms)


class Peek(NamedTuple):
    """Asks what is known of a session."""

    key: bytes

    def pack(self) -> bytes:
        """Nothing but the key is asked."""
        return b""


@dataclass(frozen=True, slots=True)
class Claim:
    """Asks for the ownership of a session."""

    key: bytes
    mode: Mode
    incarnation: bytes
    """By the create token; empty: the caller has none."""
    nonce: bytes
    name: str
    version: str
    """For a session that is created: the newest, or the asked one."""
    digest: str
    asked_version: str
    served: Sequence[str]
    """Keys of all models here."""
    options: bytes
    h0: bytes
    state: bytes
    flags: bytes
    ttl_ms: int
    lease_ms: int
    max_lease_ms: int
    ring: int
    found_epoch: int = 0
    resume_point: ResumePoint | None = None
    accept_regression: Checkpoint | None = None
    skip_lost_replies: bool = False
    replicas: int = 0

    def pack(self) -> bytes:
        """As claim.lua unpacks it."""
        point = self.resume_point or _NO_POINT
        accept = self.accept_regression
        served = "\n" + "".join(f"{key}\n" for key in self.served)
        return b"".join(
            (
                bytes((self.mode,)),
                _short(self.incarnation),
                self.nonce,
                _short(self.name.encode()),
                _short(self.version.encode()),
                _short(self.digest.encode()),
                _short(self.asked_version.encode()),
                _long(served.encode()),
                _long(self.options),
                self.h0,
                _long(self.state),
                _short(self.flags),
                struct.pack("<IIIH", self.ttl_ms, self.lease_ms, self.max_lease_ms, self.ring),
                _number(self.found_epoch),
                b"\x01" if self.resume_point else b"\x00",
                _number(point.received.step),
                _short(point.received.h),
                _number(point.durable_step),
                _short(point.incarnation),
                _number(accept.step) if accept else b"\x00",
                _short(accept.h) if accept else b"\x00",
                b"\x01" if self.skip_lost_replies else b"\x00",
                _long(b"".join(struct.pack("<Q16s", at.step, at.h) for at in point.undurable)),
            )
        )


_NO_POINT = ResumePoint(Checkpoint(0, b""), 0)

Item = Claim | Commit | Heartbeat | Release | Close | Kill | Peek


def arguments(items: Sequence[Item]) -> list[bytes]:
    """ARGV behind the tag: each item packed, then the state and the records of each commit.

    They stand apart because Lua copies and hashes whatever it cuts out of an item.
    """
    packed = [item.pack() for item in items]
    for item in items:
        if isinstance(item, Commit):
            packed.append(item.state)
            packed += item.records
    return packed


@dataclass(frozen=True, slots=True)
class Granted:
    """A claim that was granted, with the checkpoint that it found or made."""

    how: str
    """created, resumed, or displaced: resumed from an owner whose lease had not lapsed."""
    epoch: int
    displaced_epoch: int
    incarnation: bytes
    model: str
    step: int
    h: bytes
    messages: int
    """Committed so far."""
    flags: bytes
    options: bytes
    state: bytes
    ring: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Denied:
    """A claim that was not granted: nothing has changed."""

    why: str
    epoch: int
    step: int
    h: bytes
    detail: str


def stored(number: bytes) -> int:
    """A step, epoch, count or time as it is stored; ValueError for anything else."""
    if number.isdigit() and len(number) <= 16 and (value := int(number)) <= MAX_STEP:
        return value
    raise ValueError("a number of the store expected")


def claim_answer(answer: list[bytes]) -> Granted | Denied:
    """The answer of claim.lua to one item.

    Raises:
        ValueError, IndexError: it does not have the form of one.
    """
    if answer[0] != b"OK":
        why, epoch, step, h, detail = answer
        return Denied(why.decode(), stored(epoch), stored(step), h, detail.decode())
    _, how, epoch, displaced, incarnation, model, step, h, messages, flags, options, state, *ring = answer
    if (len(incarnation), len(h)) != (DIGEST_BYTES, DIGEST_BYTES):
        raise ValueError("digests expected")
    return Granted(
        how.decode(),
        stored(epoch),
        stored(displaced),
        incarnation,
        model.decode(),
        stored(step),
        h,
        stored(messages),
        flags,
        options,
        state,
        tuple(ring),
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A session as peek sees it. Times in seconds; `updated` since 1970 by the store's clock."""

    incarnation: bytes
    epoch: int
    step: int
    h: bytes
    model: str
    closed: bool
    unnumbered: bool
    lease_left: float
    updated: float
    expires_in: float
    state_bytes: int


_LAST_TIME_MS = 253_402_300_799_000
"""The end of the year 9999, the last that protobuf's Timestamp knows."""


def peek_answer(answer: list[bytes]) -> Seen:
    """The answer of peek.lua to one item that is there.

    Raises:
        ValueError, IndexError: it does not have the form of one.
    """
    _, incarnation, epoch, step, h, model, flags, lease, updated, ttl, state_bytes = answer
    return Seen(
        incarnation,
        stored(epoch),
        stored(step),
        h,
        model.decode(),
        b"c" in flags,
        b"u" in flags,
        stored(lease) / 1000,
        min(stored(updated), _LAST_TIME_MS) / 1000,
        0.0 if ttl.startswith(b"-") else stored(ttl) / 1000,
        stored(state_bytes),
    )
