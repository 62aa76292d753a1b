"""Session.step, the heart: the way of one timestep from its inputs to its committed reply.

Knows neither gRPC nor Redis; states and digests are opaque bytes here.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import structlog

from service import failpoints, metrics
from service.batcher import Batcher
from service.cells import LoadedCell
from service.codec import Reply
from service.errors import (
    CellwireError,
    LastStepMismatch,
    Position,
    SessionClosed,
    StepConflict,
    StepGap,
    StepTooOld,
    StoreFull,
    StoreLost,
    StoreUnavailable,
    Superseded,
)
from service.store.outcome import ClaimLost, Written
from service.store.records import (
    Options,
    Record,
    decode_options,
    decode_record,
    decode_state,
    encode_record,
    encode_state,
)
from service.store.scripts import AS_IT_IS, Close, Commit, Granted, Heartbeat, Owner
from service.store.store import Write
from service.tail import Tail, TailTerms
from service.values import CellWork, Checkpoint, ModelSpec, Row, Timestep, chain, maker
from service.way import Stop, Way

logger = structlog.get_logger(__name__)

_cell_work, _record, _commit, _reply = maker(CellWork), maker(Record), maker(Commit), maker(Reply)


EXPIRY_SHARE = 8
"""A session is kept for a share of its time to live longer than was promised, and its expiry moved once in that share:
with each commit it would be a tenth of what the store has to do."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The numbers that sessions are held under. Times in milliseconds."""

    ring: int
    window: int
    max_timesteps: int
    max_message_bytes: int
    idle_ttl: int
    tombstone: int
    lease: int
    replicas: int
    """Of the store, that must hold a commit, whatever a client asks for."""
    tail: TailTerms

    def ttl(self, spec: ModelSpec) -> int:
        """How long a session of this model is kept without a timestep."""
        return max(self.tombstone, round(spec.idle_ttl * 1000)) if spec.idle_ttl else self.idle_ttl

    def kept(self, spec: ModelSpec) -> int:
        """What the store is told of it."""
        return self.ttl(spec) + self.ttl(spec) // EXPIRY_SHARE


class Session:
    """One claim in memory: a checkpoint (step, h, state), the ring of replies, and the right to write the next.

    Promise: in write-through it never is ahead of the store; in write-behind by its tail, and its replies say so. A
    refused message leaves it as it was; when a commit's outcome is not known to be good, the Session has ended and only
    a new claim tells where the session stands.
    """

    def __init__(
        self,
        session_id: str,
        owner: Owner,
        cell: LoadedCell,
        granted: Granted,
        terms: Terms,
        writes: Batcher[Write, Written],
        write_behind: bool = False,
        replicas: int = 0,
    ) -> None:
        self.session_id = session_id
        self.owner = owner
        self.cell = cell
        self.step_number = granted.step
        self.h = granted.h
        self.unnumbered = b"u" in granted.flags
        self.options: Options = decode_options(cell.spec, granted.options)
        self.state = decode_state(cell.spec, granted.state)
        records = filter(None, map(decode_record, granted.ring))
        self.ring: deque[Record] = deque(sorted(records, key=lambda record: record.last), terms.ring)
        self.ttl_ms = terms.ttl(cell.spec)
        self.kept_ms = terms.kept(cell.spec)
        self.replicas = replicas
        self.displaced_epoch = granted.displaced_epoch
        self.last_write = time.monotonic()
        self._expiry_due = 0.0
        """From then on a commit moves the expiry; in write-behind, where commits are few, each does."""
        self.ended: CellwireError | None = None
        self.on_lost: Callable[[CellwireError], None] | None = None
        """Called once when the claim is lost other than by a step."""
        self._terms = terms
        self._writes = writes
        self._encode = cell.encoder(self.options.outputs)
        self._has_time_axis = cell.spec.time_axis is not None
        """One run takes all timesteps of a message."""
        self._loop = asyncio.get_running_loop()
        at = Checkpoint(granted.step, granted.h)
        self.tail = Tail(terms.tail, at, self._write, self.lose) if write_behind else None
        """In write-behind: what is answered and not in the store."""

    def follows(self, step: int) -> bool:
        """Whether a message of this number would be the next one: only that may be refused for load."""
        return step in (0, self.step_number + 1)

    async def step(self, timestep: Timestep, lease_ms: int | None = None) -> Reply:
        """As `start`: the reply, or its error is raised. Cancelled, it leaves the message where it is."""
        reply: asyncio.Future[Reply] = self._loop.create_future()
        way = self.start(timestep, partial(_settle, reply), lease_ms)
        try:
            return await reply
        except asyncio.CancelledError:
            way.leave()
            raise

    def start(
        self, timestep: Timestep, answered: Callable[[Reply | BaseException], None], lease_ms: int | None = None
    ) -> Way[Reply]:
        """Advances the session by one message, exactly once; `answered` is called once, maybe at once.

        1. A message that was committed before is answered from the ring; one that does not follow is refused. Only
           the next one may be refused for load.
        2. The cell runs, in a batch with other sessions. Until here a failure has changed nothing.
        3. The checkpoint is committed, in a batch with other sessions; in write-behind it will be.
        4. The checkpoint is adopted and the reply returned.

        Answers:
            StepGap, StepConflict, StepTooOld, Overloaded, Quota, StepDeadline, NonFinite, ModelFailed, StoreFull:
                refused, nothing has changed.
            CellwireError: any other; the Session has ended.
        """
        return Way(self._step(timestep, lease_ms), answered)

    def _step(self, timestep: Timestep, lease_ms: int | None) -> Generator[Stop, Any, Reply]:
        if self.ended:
            raise self.ended
        # 1
        step, timesteps, rows, deadline, priority = timestep
        before, count, cell = self.step_number, len(rows), self.cell
        first = step or before + 1
        if first != before + 1:
            return self._replay(first, timestep)
        with cell.admission.step(priority, count):
            last = before + count
            h = chain(self.h, cell.signature, rows[0]) if count == 1 else self._digest(self.h, rows)
            # 2
            if self.tail and not self.tail.has_room(count):
                yield self.tail, count, inf
            failpoints.hit("before_run")
            at_once = rows if self._has_time_axis else rows[:1]
            work = _cell_work((self.state, at_once, self.options.constants))
            state, outputs = yield cell.batcher, work, deadline
            for row in rows[len(at_once) :]:  # it is being run: no deadline now
                work = _cell_work((state, (row,), self.options.constants))
                state, output = yield cell.batcher, work, inf
                outputs += output
            failpoints.hit("after_run")
            record = _record((first, last, self.h, h, timesteps, self._encode(timesteps, outputs)))
            # 3
            if self.tail:
                if self.ended:
                    raise self.ended
                self.tail.add(record, state)
                degraded = self.tail.degraded
            else:
                commit = self._commit(before, self.h, (record,), state, lease_ms)
                try:
                    _, degraded = yield self._writes, commit, inf
                except StoreFull:
                    raise
                except BaseException as error:  # also when nobody waits any more
                    self.end(error if isinstance(error, CellwireError) else None)
                    raise
                failpoints.hit("after_reply")
                if commit.ttl_ms != AS_IT_IS:
                    self._expiry_due = self.last_write + self.ttl_ms / 1000 / EXPIRY_SHARE
            # 4
            self.step_number, self.h, self.state = last, h, state
            self.ring.append(record)
            return self._reply(record, False, degraded)

    def _write(self, at: Checkpoint, records: tuple[Record, ...], state: bytes) -> "asyncio.Future[Written]":
        """Sends the commit of the tail."""
        return self._writes.submit(self._commit(at.step, at.h, records, state, None))

    def _commit(
        self, n_from: int, h_from: bytes, records: tuple[Record, ...], state: bytes, lease_ms: int | None
    ) -> Commit:
        """Of messages that follow this step and digest, with the state after the last of them; it is sent now."""
        now = self.last_write = time.monotonic()
        _, n_to, _, h_to, _, _ = records[-1]
        return _commit(
            (
                self.owner,
                n_from,
                h_from,
                n_to,
                h_to,
                encode_state(self.cell.spec, state),
                tuple(map(encode_record, records)),
                self.kept_ms if now >= self._expiry_due else AS_IT_IS,
                self._terms.lease if lease_ms is None else lease_ms,
                self._terms.ring,
                self.replicas,
            )
        )

    def _digest(self, h: bytes, rows: Sequence[Row]) -> bytes:
        for row in rows:
            h = chain(h, self.cell.signature, row)
        return h

    def _replay(self, first: int, timestep: Timestep) -> Reply:
        """The stored answer to a message that is not the next one, or why there is none."""
        last = first + len(timestep.rows) - 1
        position = self.position
        if first > self.step_number + 1:
            raise StepGap(f"step: expected {self.step_number + 1}", position=position)
        for record in self.ring:
            if (record.first, record.last) == (first, last) and record.timesteps == timestep.timesteps:
                if self._digest(record.h_before, timestep.rows) != record.h_after:
                    raise StepConflict("the step was committed with other inputs", position=position)
                metrics.REPLAYS.inc()
                return self._reply(record, replayed=True)
        if last <= self.step_number and not any(r.first <= last and first <= r.last for r in self.ring):
            raise StepTooOld(f"step: older than the ring; the session is at {self.step_number}", position=position)
        raise StepConflict("the steps were committed in another span", position=position)

    def replies_after(self, step: int) -> list[Reply]:
        """The stored replies to the steps behind this one, for a client that kept no inputs.

        Raises:
            StepTooOld: the ring no longer has them all.
        """
        records = [record for record in self.ring if record.first > step]
        if step < self.step_number and (not records or records[0].first != step + 1):
            raise StepTooOld(
                f"replies_after: older than the ring; the session is at {self.step_number}", position=self.position
            )
        return [self._reply(record, replayed=True) for record in records]

    def _reply(self, record: Record, replayed: bool = False, degraded: bool = False) -> Reply:
        _, last, _, h, timesteps, outputs = record
        durable = self.tail.durable.step if self.tail else self.step_number
        return _reply((last, h, self.owner.epoch, durable, timesteps, outputs, replayed, degraded))

    @property
    def durable_step(self) -> int:
        """The store holds the session up to here."""
        return self.tail.durable.step if self.tail else self.step_number

    @property
    def position(self) -> Position:
        """Where it stands, for an error."""
        return Position(self.step_number, self.h, self.owner.epoch, self.owner.incarnation)

    @property
    def closed(self) -> bool:
        """True once it was closed for good through this Session."""
        return isinstance(self.ended, SessionClosed)

    @property
    def claim_is_gone(self) -> bool:
        """True if the store was seen without this claim: there is nothing to release."""
        return isinstance(self.ended, SessionClosed | Superseded | StoreLost | ClaimLost)

    async def close(self, step: int) -> int:
        """Ends the session for good: its last step.

        Raises:
            LastStepMismatch: it stands at another step; nothing has changed.
            StoreFull: refused, nothing has changed.
            CellwireError: any other; the Session has ended.
        """
        if step != self.step_number:
            raise LastStepMismatch(f"step: the last one is {self.step_number}", position=self.position)
        await self.flush()
        try:
            closed = await self._writes.submit(Close(self.owner, step, self._terms.tombstone, self.replicas))
        except StoreFull:
            raise
        except BaseException as error:
            self.end(error if isinstance(error, CellwireError) else None)
            raise
        self.end(SessionClosed("the session was closed", position=self.position))
        logger.info("session.closed", session_id=self.session_id, epoch=self.owner.epoch, step=step)
        return closed.step

    async def flush(self) -> None:
        """Returns once everything that was answered is in the store.

        Raises:
            CellwireError: it never will be; the Session has ended.
        """
        if self.tail:
            await self.tail.settled()
            if self.ended:
                raise self.ended

    def heartbeat(self) -> Heartbeat:
        """What keeps its lease."""
        return Heartbeat(self.owner, self.kept_ms, self._terms.lease)

    def end(self, error: CellwireError | None) -> None:
        """From here on nothing advances this Session; the first reason stays."""
        self.ended = self.ended or error or StoreUnavailable("the outcome of a commit is not known; resume")

    def lose(self, error: CellwireError) -> None:
        """The claim is gone: ends the Session and tells who waits on it."""
        if not self.ended:
            self.end(error)
            logger.info("session.lost", session_id=self.session_id, epoch=self.owner.epoch, reason=error.reason)
            if self.on_lost:
                self.on_lost(error)


def _settle(reply: "asyncio.Future[Reply]", answer: Reply | BaseException) -> None:
    if reply.done():
        return
    if isinstance(answer, BaseException):
        reply.set_exception(answer)
    else:
        reply.set_result(answer)
