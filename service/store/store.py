"""Sessions in Redis: one hash a session, one call of a script a batch. All that is known of the store is known here.

Key names come from `keys`, what answers mean from `outcome`.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import structlog
from redis.exceptions import ConnectionError as NoConnection

from service import errors, metrics
from service.errors import CellwireError
from service.store.call import Told, Unanswered
from service.store.endpoint import Node
from service.store.exchange import Command
from service.store.keys import session_key, session_of
from service.store.link import Link, WrongAnswer
from service.store.outcome import Written, claimed, killed, peeked, released, written
from service.store.scripts import (
    CLAIM,
    CLOSE,
    COMMIT,
    HEARTBEAT,
    KILL,
    PEEK,
    RELEASE,
    Claim,
    Close,
    Commit,
    Granted,
    Heartbeat,
    Item,
    Kill,
    Peek,
    Release,
    Script,
    Seen,
)
from service.store.topology import Topology
from service.store.wire import FAULTS, Send

logger = structlog.get_logger(__name__)

STORE_ID_KEY = b"cw:store"
POLICY_SECONDS = 5.0
"""Between two looks at the store's policy."""
Write = Commit | Release | Close
_SCRIPTS: dict[type[Write], Script] = {Commit: COMMIT, Release: RELEASE, Close: CLOSE}
"""In the order in which they are sent."""
CURSOR_BITS = 52
"""Of a page token: a primary's own cursor; above them its number."""


@dataclass(slots=True)
class Condition:
    """What was last seen of the store."""

    store_id: bytes = b""
    fault: str | None = "not tried yet"
    """Why it cannot be used, or None."""
    reachable: bool = False
    """A fault of a store that answers is one of its settings, which no failover mends."""
    policy_checked: float = field(default=float("-inf"))


class NotPrimary(NoConnection):
    """A node that was a primary is one no longer."""


class Store:
    """The sessions of one tenant in one store of Redis or Valkey servers."""

    def __init__(
        self,
        topology: Topology,
        tenant: str,
        commit_deadline: float,
        ephemeral: bool = False,
        degrade: bool = False,
    ) -> None:
        """
        Args:
            topology: where the primaries are.
            tenant: whose sessions.
            commit_deadline: seconds; what is in doubt is sent again for so long.
            ephemeral: a store that may lose sessions is in order.
            degrade: a write that too few replicas hold is told as degraded, instead of being in doubt.
        """
        self._topology = topology
        self._tenant = tenant
        self._deadline = commit_deadline
        self._ephemeral = ephemeral
        self._degrade = degrade
        self.condition = Condition()
        self.on_replaced: Callable[[], None] = lambda: None
        """Called when the store turns out to be another one, before anything is asked of that one."""

    async def __aenter__(self) -> "Store":
        await self._topology.start()
        self.lanes = self._topology.lanes
        """Batches of different lanes do not wait for each other."""
        self._writes = [self._link("writes") for _ in range(self.lanes)]
        self._claims = [self._link("claims") for _ in range(self.lanes)]
        self._leases = self._link("leases")
        self._plain = self._link("plain")
        return self

    async def __aexit__(self, *_: object) -> None:
        for link in (*self._writes, *self._claims, self._leases, self._plain):
            await link.aclose()

    def _link(self, name: str) -> Link:
        return Link(self._topology, name, self._meet, self._degrade)

    def lane(self, key: bytes) -> int:
        """The lane of a session's key: the same for the life of this Store."""
        return self._topology.lane(key)

    def key(self, session_id: str) -> bytes:
        """The key of a session of this store's tenant."""
        return session_key(self._tenant, session_id)

    async def claim_batch(self, lane: int, items: Sequence[Claim]) -> list[Granted | CellwireError]:
        """Claims sessions of a lane: each granted with its checkpoint, or an error, and then nothing has changed."""
        first: dict[bytes, Claim] = {}
        later: list[Claim] = []
        for item in items:
            if item.key in first:
                later.append(item)
            else:
                first[item.key] = item
        chosen = list(first.values())
        answers = await self._call(self._claims[lane], CLAIM, chosen)
        results = {
            id(item): claimed(item, answer, self.condition.store_id)
            for item, answer in zip(chosen, answers, strict=True)
        }
        if later:
            again = await self.claim_batch(lane, later)
            results |= {id(item): result for item, result in zip(later, again, strict=True)}
        return [results[id(item)] for item in items]

    async def write_batch(self, lane: int, items: Sequence[Write]) -> list[Written | CellwireError]:
        """Commits, then releases, then closes, of sessions of a lane.

        A commit's error other than StoreFull leaves its outcome to the store: the Session ends.
        """
        kinds = set(map(type, items))
        if len(kinds) == 1:  # nearly always
            return await self._write(lane, kinds.pop(), items)
        results: dict[int, Written | CellwireError] = {}
        for kind in _SCRIPTS:
            chosen = [item for item in items if type(item) is kind]
            if chosen:
                results |= zip(map(id, chosen), await self._write(lane, kind, chosen), strict=True)
        return [results[id(item)] for item in items]

    async def _write(self, lane: int, kind: type[Write], items: Sequence[Write]) -> list[Written | CellwireError]:
        """Those of one kind."""
        started = time.perf_counter()
        answers = await self._call(self._writes[lane], _SCRIPTS[kind], items)
        if kind is Commit:
            metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
            metrics.COMMIT_SIZE.observe(len(items))
        outcome = released if kind is Release else written
        return [outcome(item.owner, answer) for item, answer in zip(items, answers, strict=True)]

    async def heartbeat_batch(self, items: Sequence[Heartbeat]) -> list[int | CellwireError]:
        """Keeps the leases of idle streams: 0 for each that is still the owner, or why it is not; Unanswered: nothing
        is known."""
        answers = await self._call(self._leases, HEARTBEAT, items)
        results = [written(item.owner, answer) for item, answer in zip(items, answers, strict=True)]
        return [result.step if isinstance(result, Written) else result for result in results]

    async def peek(self, session_ids: Sequence[str]) -> list[Seen | CellwireError]:
        """What is known of each session, without its state, or why nothing is."""
        items = [Peek(self.key(name)) for name in session_ids]
        answers = await self._call(self._leases, PEEK, items)
        return [peeked(item, answer) for item, answer in zip(items, answers, strict=True)]

    async def kill(self, session_id: str, tombstone: float, replicas: int = 0) -> int:
        """An operator's close: the step that the session stood at.

        Raises:
            SessionUnknown: there is none.
        """
        (seen,) = await self.peek([session_id])
        if isinstance(seen, CellwireError):
            raise seen
        item = Kill(self.key(session_id), seen.incarnation, round(tombstone * 1000), replicas)
        (told,) = await self._call(self._leases, KILL, [item])
        step = killed(item, told)
        logger.info("session.killed", session_id=session_id, step=step)
        return step

    async def scan(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Ids of sessions of this tenant, with the cursor to go on from; 0: at the end."""
        prefix = self.key("")[:-1]
        pattern = re.sub(rb"([\[\]*?\\])", rb"\\\1", prefix) + b"*"
        number, at = cursor >> CURSOR_BITS, cursor & ((1 << CURSOR_BITS) - 1)
        try:
            await self._topology.learn()
            primaries = self._topology.primaries()
            if number >= len(primaries):
                return 0, []
            (page,) = await self._plain.ask(primaries[number], (b"SCAN", at, b"MATCH", pattern, b"COUNT", count))
        except FAULTS:
            raise errors.StoreUnavailable("the store does not answer") from None
        after, keys = cast("tuple[bytes, list[bytes]]", page)
        following = number << CURSOR_BITS | int(after)
        if int(after) == 0:
            following = (number + 1) << CURSOR_BITS if number + 1 < len(primaries) else 0
        return following, [session_of(key) for key in keys]

    async def check(self) -> None:
        """Looks whether all primaries answer, are the same store, and keep what they are given; `condition` says it."""
        condition = self.condition
        try:
            await self._topology.learn()
            primaries = self._topology.primaries()
            await self._meet(self._topology.holder(STORE_ID_KEY), self._ask_holder)
            due = time.monotonic() - condition.policy_checked > POLICY_SECONDS or condition.fault is not None
            faults = await asyncio.gather(*(self._fault_of(node, due) for node in primaries))
            if due:
                condition.fault = next(filter(None, faults), None)
                condition.policy_checked = time.monotonic()
            condition.reachable = True
        except FAULTS as error:
            condition.fault, condition.reachable = f"unreachable ({type(error).__name__})", False

    async def _ask_holder(self, command: Command) -> object:
        (answer,) = await self._plain.ask(self._topology.holder(STORE_ID_KEY), command)
        return answer

    async def _meet(self, node: Node, send: Send) -> None:
        """Which store is it? Read before it is written, because a full store refuses the SET. In a cluster one
        primary knows."""
        if node != self._topology.holder(STORE_ID_KEY):
            return
        found = await send((b"GET", STORE_ID_KEY))
        if found is None:
            drawn = secrets.token_hex(8).encode()
            found = await send((b"SET", STORE_ID_KEY, drawn, b"NX", b"GET")) or drawn
        if not isinstance(found, bytes):
            raise WrongAnswer("the store's id is no text")
        known, self.condition.store_id = self.condition.store_id, found
        if known not in (b"", self.condition.store_id):
            self.on_replaced()

    async def _fault_of(self, node: Node, policy: bool) -> str | None:
        """Why a primary may lose sessions, if its policy is asked for."""
        sections = (b"replication", b"memory", b"persistence") if policy else (b"replication",)
        answers = await self._plain.ask(node, *((b"INFO", section) for section in sections))
        info = dict(line.split(b":", 1) for answer in answers for line in bytes(answer).split() if b":" in line)  # type: ignore[call-overload]
        if info.get(b"role") != b"master":
            await self._plain.leave(node)
            raise NotPrimary("the node is not a primary")
        if not policy or self._ephemeral:
            return None
        eviction = info.get(b"maxmemory_policy", b"").decode()
        if eviction != "noeviction":
            return f"maxmemory_policy is {eviction}: it may evict live sessions; set noeviction"
        if info.get(b"aof_enabled") != b"1":
            return "persistence is off: set appendonly yes, or allow an ephemeral store"
        return None

    async def _call(self, link: Link, script: Script, items: Sequence[Item]) -> list[Told | Unanswered]:
        return await link.call(script, items, time.monotonic() + self._deadline)
