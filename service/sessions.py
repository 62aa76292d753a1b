"""The claims of this replica: how a session is opened, and how it is left.

Knows which streams hold what; how a session advances stands in `session`, what the store does in `store`.
"""

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from service import failpoints, metrics, tasks
from service.batcher import Batcher
from service.cells import Cells, LoadedCell
from service.codec import TOKEN_BYTES, OpenRequest, decode_constants, decode_outputs
from service.errors import CellwireError, Draining, ModelUnknown, Superseded
from service.session import Session, Terms
from service.store.outcome import ClaimLost, Written
from service.store.records import Options, encode_options, encode_state
from service.store.scripts import AS_IT_IS, NONCE_BYTES, Claim, Commit, Granted, Owner, Release
from service.store.store import Store, Write
from service.tensors import MAX_NAME
from service.values import ZERO_DIGEST, Mode, chain_origin, incarnation_of

logger = structlog.get_logger(__name__)

MAX_CLAIMS = 64
LONGEST_LEASE = 4
"""In leases: one that is further ahead counts as lapsed."""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A claim that was granted."""

    session: Session
    created: bool
    drawn_token: bytes
    """The create token if it was drawn here; told once."""
    store_id: bytes


class Sessions:
    """The sessions that this replica holds, and the one way to claim one."""

    def __init__(self, store: Store, cells: Cells, terms: Terms, max_commits: int, max_commit_bytes: int) -> None:
        self.terms = terms
        self.live: dict[bytes, Session] = {}
        """Of streams, by key."""
        self.draining = False
        self._store = store
        self._cells = cells
        self._claims: list[Batcher[Claim, Granted]] = [
            Batcher(partial(store.claim_batch, lane), MAX_CLAIMS) for lane in range(store.lanes)
        ]
        """One a lane, as of the writes: a primary that is away stops no other's sessions."""
        self.writes: list[Batcher[Write, Written]] = [
            Batcher(partial(store.write_batch, lane), max_commits, max_commit_bytes, _write_bytes, linger_turns=0)
            for lane in range(store.lanes)
        ]
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "Sessions":
        for claims in self._claims:
            await claims.__aenter__()
        for writes in self.writes:
            await writes.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in tuple(self._tasks):
            await tasks.end(task)
        for claims in self._claims:
            await claims.__aexit__()
        for writes in self.writes:
            await writes.__aexit__()

    async def settled(self) -> None:
        """Returns once no claim and no release is on its way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def admit(self, request: OpenRequest) -> None:
        """Lets a stream in, before anything is claimed for it. Sessions that are resumed are not held back, since their
        timesteps will be: turned away they would only come again.

        Raises:
            Overloaded: a new session, whose model has too much in flight.
        """
        point = request.resume_point
        is_resumed = request.mode is Mode.RESUME or (point is not None and point.received.step > 0)
        cell = None if is_resumed else self._cells.loaded(request.model, request.version)
        if cell is not None:
            cell.admission.open()

    async def open(self, request: OpenRequest, lease_ms: int | None = None) -> OpenedSession:
        """Claims a session, creating it where its mode allows.

        The claim runs in a task of its own: when the caller leaves in between, what was granted is released.

        Raises:
            CellwireError: why not; then nothing has changed.
        """
        if self.draining:
            raise Draining("this replica is going", retry_after=0.0)
        claiming = self.spawn(self._open(request, self.terms.lease if lease_ms is None else lease_ms))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(self._release_unwanted)
            raise

    def hold(self, session: Session) -> None:
        """A stream holds the session from now on; of two streams of this replica the one with the older claim is ended,
        whichever of them comes here first."""
        superseded, holder = self.live.get(session.owner.key), session
        if superseded and superseded.owner.epoch > session.owner.epoch:
            superseded, holder = session, superseded
        self.live[session.owner.key] = holder
        metrics.LIVE_SESSIONS.set(len(self.live))
        if superseded:
            was_seen = holder.displaced_epoch >= superseded.owner.epoch
            superseded.lose(
                Superseded("another client claimed the session")
                if was_seen
                else ClaimLost("the claim was lost in a failover; resume", retry_after=0.0)
            )

    def leave(self, session: Session) -> None:
        """The stream of the session is over: its tail is written and its lease given up, by nobody's RPC."""
        if self.live.get(session.owner.key) is session:
            del self.live[session.owner.key]
            metrics.LIVE_SESSIONS.set(len(self.live))
        session.on_lost = None  # no cycle: what it holds goes at once, not when the collector comes
        self.release(session)

    def release(self, session: Session) -> None:
        """Gives the lease up, if the claim still has one to give."""
        if session.claim_is_gone:
            session.tail = None  # which holds the session
        else:
            session.end(None)
            self.spawn(self._let_go(session))

    def lose_all(self, error: CellwireError) -> None:
        """The store that held them is gone."""
        for session in tuple(self.live.values()):
            session.lose(error)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs work that no RPC owns: `settled` waits for it, `__aexit__` ends it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open(self, request: OpenRequest, lease_ms: int) -> OpenedSession:
        cell = await self._named(request)
        drawn = b"" if request.create_token or request.mode is Mode.RESUME else os.urandom(TOKEN_BYTES)
        claim = self._claim(request, cell, request.create_token or drawn, lease_ms)
        granted = await self._claims[self._store.lane(claim.key)].submit(claim)
        failpoints.hit("in_claim")
        owner = Owner(claim.key, granted.incarnation, claim.nonce, granted.epoch)
        try:
            of_session = (
                cell if cell and cell.spec.key == granted.model else await self._cells.of_session(granted.model)
            )
            write_behind = of_session.spec.write_behind if request.write_behind is None else request.write_behind
            session = Session(
                request.session_id,
                owner,
                of_session,
                granted,
                self.terms,
                self._writes_of(claim.key),
                write_behind,
                claim.replicas,
            )
            if request.replies_after is not None:
                session.replies_after(request.replies_after)
        except BaseException:
            self.spawn(self._release(owner, AS_IT_IS))
            raise
        how = granted.how
        metrics.OPENED.labels("created" if how == "created" else "resumed").inc()
        if how == "displaced":
            metrics.TAKEOVERS.inc()
        logger.info("session.opened", session_id=request.session_id, how=how, epoch=granted.epoch, step=granted.step)
        if drawn and incarnation_of(drawn) != granted.incarnation:
            drawn = b""  # the session was there: its token is another one
        return OpenedSession(session, how == "created", drawn, self._store.condition.store_id)

    def _writes_of(self, key: bytes) -> Batcher[Write, Written]:
        return self.writes[self._store.lane(key)]

    async def _named(self, request: OpenRequest) -> LoadedCell | None:
        """The model that the open names; None where only the stored session can say what is meant."""
        if not request.model:
            return None
        try:
            return await self._cells.get(request.model, request.version)
        except ModelUnknown:
            if request.mode is not Mode.RESUME or len(request.model.encode()) > MAX_NAME:
                raise
            return None  # the claim answers MODEL_NOT_HERE or MODEL_CHANGED, and is not taken

    def _claim(self, request: OpenRequest, cell: LoadedCell | None, token: bytes, lease_ms: int) -> Claim:
        """The claim item, with everything that a new session would start from."""
        terms = self.terms
        name, version, digest, options, h0, state, ttl = request.model, "", "", b"", ZERO_DIGEST, b"", AS_IT_IS
        incarnation = incarnation_of(token) if token else b""
        if cell:
            spec = cell.spec
            version, digest = spec.version, spec.digest.hex()
            ttl = terms.kept(spec)
            if request.mode is not Mode.RESUME:
                chosen = decode_outputs(spec, request.outputs, request.gates)
                constants = decode_constants(spec, request.constants)
                options = encode_options(Options(chosen, constants))
                h0 = chain_origin(incarnation, spec.key, options)
                state = encode_state(spec, spec.initial_state)
        return Claim(
            key=self._store.key(request.session_id),
            mode=request.mode,
            incarnation=incarnation,
            nonce=os.urandom(NONCE_BYTES),
            name=name,
            version=version,
            digest=digest,
            asked_version=request.version,
            served=self._cells.served,
            options=options,
            h0=h0,
            state=state,
            flags=b"u" if request.unnumbered else b"",
            ttl_ms=ttl,
            lease_ms=lease_ms,
            max_lease_ms=LONGEST_LEASE * terms.lease,
            ring=terms.ring,
            found_epoch=request.found_epoch,
            resume_point=request.resume_point,
            accept_regression=request.accept_regression,
            skip_lost_replies=request.skip_lost_replies,
            replicas=max(request.replicas, terms.replicas),
        )

    async def _let_go(self, session: Session) -> None:
        if session.tail:
            await session.tail.settled()
            session.tail = None
        if not session.claim_is_gone:
            await self._release(session.owner, session.kept_ms)

    async def _release(self, owner: Owner, ttl_ms: int) -> None:
        failpoints.hit("in_release")
        try:
            await self._writes_of(owner.key).submit(Release(owner, ttl_ms))
        except CellwireError as error:
            logger.debug("session.not_released", epoch=owner.epoch, reason=error.reason)

    def _release_unwanted(self, claiming: "asyncio.Task[OpenedSession]") -> None:
        if not claiming.cancelled() and claiming.exception() is None:
            self.release(claiming.result().session)


def _write_bytes(write: Write) -> float:
    return len(write.state) + sum(map(len, write.records)) if isinstance(write, Commit) else 0
