"""The scripts called as the service packs them, with no service between; and what a session's key holds."""

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

from service.store.keys import session_key
from service.store.records import Record, encode_record
from service.store.scripts import (
    CLAIM,
    Claim,
    Close,
    Commit,
    Granted,
    Heartbeat,
    Item,
    Owner,
    Release,
    arguments,
    claim_answer,
)
from service.store.scripts import Script as LuaScript
from service.values import Mode
from tests.access import as_service

Answer = bytes | list[bytes]
MODEL = "m/1/" + "ab" * 16
ALICE, BOB = b"a" * 16, b"b" * 16
"""Incarnations of two create tokens."""
TTL, LEASE, MAX_LEASE, TOMBSTONE, RING = 60_000, 10_000, 40_000, 20_000, 2


def digest(*parts: object) -> bytes:
    """Sixteen bytes that stand for a chain digest."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def new_key() -> bytes:
    """The key of a session that no other test has."""
    return session_key("scripts", uuid.uuid4().hex)


def new_nonce() -> bytes:
    """Of an in-memory Session."""
    return uuid.uuid4().bytes


def claim(key: bytes, incarnation: bytes = ALICE, mode: Mode = Mode.CREATE_OR_RESUME, **fields: Any) -> Claim:
    """A claim with a nonce of its own."""
    values: dict[str, Any] = {
        "nonce": new_nonce(),
        "name": "m",
        "version": "1",
        "digest": "ab" * 16,
        "asked_version": "",
        "served": ("other/1/" + "00" * 16, MODEL),
        "options": b'{"outputs":["y"]}\n',
        "h0": digest(incarnation),
        "state": b"state 0",
        "flags": b"",
        "ttl_ms": TTL,
        "lease_ms": LEASE,
        "max_lease_ms": MAX_LEASE,
        "ring": RING,
        **fields,
    }
    return Claim(key=key, mode=mode, incarnation=incarnation, **values)


def ring_record(first: int, last: int, h_before: bytes, h_after: bytes) -> bytes:
    """A stored reply of a message."""
    return encode_record(Record(first, last, h_before, h_after, 0, b"outputs of %d" % last))


@dataclass(frozen=True)
class Held:
    """A claim that was granted, and where its Session believes to stand."""

    owner: Owner
    step: int
    h: bytes

    def commit(self, text: object = "x", steps: int = 1, messages: int = 1, **fields: Any) -> Commit:
        """The commit of the next messages, each of so many steps; `text` stands for their inputs."""
        last, h, records = self.step, self.h, []
        for _ in range(messages):
            first, before, last, h = last + 1, h, last + steps, digest(h, text)
            records.append(ring_record(first, last, before, h))
        return Commit(
            **{
                "owner": self.owner,
                "n_from": self.step,
                "h_from": self.h,
                "n_to": last,
                "h_to": h,
                "state": b"state %d" % last,
                "records": tuple(records),
                "ttl_ms": TTL,
                "lease_ms": LEASE,
                "ring": RING,
                **fields,
            }
        )

    def after(self, commit: Commit) -> "Held":
        """Once that commit was accepted."""
        return Held(self.owner, commit.n_to, commit.h_to)

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(self.owner, TTL, LEASE)

    def release(self) -> Release:
        return Release(self.owner, TTL)

    def close(self, step: int | None = None) -> Close:
        return Close(self.owner, self.step if step is None else step, TOMBSTONE)


def held(item: Claim, granted: Granted) -> Held:
    """The claim as the service holds it."""
    return Held(Owner(item.key, granted.incarnation, item.nonce, granted.epoch), granted.step, granted.h)


class Scripted:
    """Calls scripts on a store, as the service, and looks at keys, as an administrator."""

    def __init__(self, url: str) -> None:
        self.redis: Any = Redis.from_url(url)
        # the library would name itself, which the service does not
        self._service: Any = Redis.from_url(as_service(url), driver_info=None)

    def call(self, script: LuaScript, *items: Item) -> list[Answer]:
        """The answer to each item."""
        command = [script.sha, len(items), *(item.key for item in items), b"tag", *arguments(items)]
        try:
            answer = self._service.evalsha(*command)
        except NoScriptError:
            self._service.script_load(script.source)
            answer = self._service.evalsha(*command)
        assert answer[0] == b"tag"
        results: list[Answer] = answer[1:]
        assert len(results) == len(items)
        return results

    def ask(self, script: LuaScript, item: Item) -> Answer:
        """The answer to one item."""
        (answer,) = self.call(script, item)
        return answer

    def claimed(self, item: Claim) -> Held:
        """A claim that must be granted."""
        answer = self.ask(CLAIM, item)
        assert isinstance(answer, list)
        granted = claim_answer(answer)
        assert isinstance(granted, Granted), granted
        return held(item, granted)

    def fields(self, key: bytes) -> dict[str, bytes]:
        """Every field of the key; none: there is no key."""
        return {name.decode(): value for name, value in self.redis.hgetall(key).items()}

    def expires(self, key: bytes) -> int:
        """When the key will expire, in milliseconds since 1970; negative as PEXPIRETIME has it."""
        return int(self.redis.execute_command("PEXPIRETIME", key))

    def seen(self, key: bytes) -> tuple[dict[str, bytes], int]:
        """All that can be seen of a key."""
        return self.fields(key), self.expires(key)

    def now(self) -> int:
        """Microseconds since 1970 by the store's clock."""
        seconds, micros = self.redis.time()
        return int(seconds) * 1_000_000 + int(micros)
