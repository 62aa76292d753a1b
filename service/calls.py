"""Unary Step: the ownership of a session without a stream, as a cache and not as a hold.

A call's commit gives the lease up in the same write, so the next call may go to any replica. A Session kept in the
cache may serve only the very next step, because that commit is its fence; every other answer is given after a claim.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from service.codec import OpenRequest, Reply
from service.errors import CellwireError, SessionBusy, SessionClosed, StaleOpen, StoreUnavailable, Superseded
from service.session import Session
from service.sessions import OpenedSession, Sessions
from service.store.outcome import ClaimLost
from service.values import Mode, Timestep, incarnation_of

PAUSE = 0.01
"""Seconds between two looks at a session that others want too, with jitter; doubled each time."""


class Calls:
    """Steps of sessions that no stream holds, with the same guarantees as on a stream."""

    def __init__(self, sessions: Sessions, store_id: Callable[[], bytes], capacity: int) -> None:
        self._sessions = sessions
        self._store_id = store_id
        self._capacity = capacity
        self._kept: OrderedDict[str, Session] = OrderedDict()

    async def step(
        self, request: OpenRequest, decode: Callable[[Session], Timestep], deadline: float
    ) -> tuple[OpenedSession, Reply]:
        """Advances a session by one message, in a Session that is kept or claimed for it.

        Args:
            request: the checked Open of the call.
            decode: checks the message against the model of the session.
            deadline: monotonic time until which a session that others want is looked at again.

        Raises:
            CellwireError: why not.
        """
        attempt = 0
        kept = self._take(request)
        if kept:
            timestep = decode(kept)
            if timestep.step in (0, kept.step_number + 1):
                try:
                    reply = await kept.step(timestep, lease_ms=0)
                except CellwireError as error:
                    if not error.ends_stream:
                        self._keep(request.session_id, kept)
                        raise
                    _not_twice(timestep, error)
                else:
                    self._keep(request.session_id, kept)
                    return OpenedSession(kept, False, b"", self._store_id()), reply
        if request.mode is Mode.CREATE:
            self._sessions.admit(request)
        first: OpenedSession | None = None
        while True:
            opened = await self.open(request, deadline)
            session = opened.session
            first = first or opened
            committed = False
            try:
                timestep = decode(session)
                reply = await session.step(timestep, lease_ms=0)
                committed = not reply.replayed
            except (Superseded, ClaimLost) as error:
                _not_twice(timestep, error)
                attempt += 1
                await _pause(attempt, deadline, error)
                request = self._as_created(request, opened)
                continue
            finally:
                if not committed:
                    self._sessions.release(session)
            if committed:
                self._keep(request.session_id, session)
            return self._told(first, opened), reply

    async def open(self, request: OpenRequest, deadline: float) -> OpenedSession:
        """A claim for one call: a stale epoch is asked again, a held lease waited for until the deadline."""
        attempt = 0
        request = replace(request, write_behind=False)  # a call is answered when its commit is
        while True:
            lease_ms = max(1, min(self._sessions.terms.lease, round((deadline - time.monotonic()) * 1000)))
            try:
                return await self._sessions.open(request, lease_ms)
            except StaleOpen as error:
                if error.position is None:
                    raise
                request = replace(request, found_epoch=error.position.epoch)
                attempt += 1
                if attempt > 1:
                    await _pause(attempt, deadline, error)
            except SessionBusy as error:
                attempt += 1
                await _pause(attempt, deadline, error)

    async def close(self, request: OpenRequest, step: int | None, deadline: float) -> int:
        """Ends a session for good: its last step. One that is closed already is no error.

        Args:
            request: names the session and its token.
            step: its last step as the caller knows it; None: whatever it is.
            deadline: monotonic time until which a session that others want is looked at again.

        Raises:
            CellwireError: why not.
        """
        self._kept.pop(request.session_id, None)
        attempt = 0
        while True:
            try:
                session = (await self.open(request, deadline)).session
                try:
                    return await session.close(session.step_number if step is None else step)
                finally:
                    self._sessions.release(session)
            except SessionClosed as error:
                return error.position.step if error.position else 0
            except (Superseded, ClaimLost) as error:
                attempt += 1
                await _pause(attempt, deadline, error)

    def _as_created(self, request: OpenRequest, opened: OpenedSession) -> OpenRequest:
        """Asked again, a session whose token was drawn here is opened with that token."""
        return replace(request, create_token=opened.drawn_token) if opened.drawn_token else request

    def _told(self, first: OpenedSession, last: OpenedSession) -> OpenedSession:
        """What the caller is told: that it created the session, and the token drawn for it, also when it was opened
        again since."""
        same = first.session.owner.incarnation == last.session.owner.incarnation
        return replace(last, created=first.created, drawn_token=first.drawn_token) if same else last

    def _take(self, request: OpenRequest) -> Session | None:
        """The kept Session, if its next commit alone can answer this call."""
        session = self._kept.pop(request.session_id, None)
        if session is None or session.ended or request.mode is Mode.CREATE:
            return None
        if request.create_token and incarnation_of(request.create_token) != session.owner.incarnation:
            return None
        spec = session.cell.spec
        if request.replicas > session.replicas:
            return None
        if request.model not in ("", spec.name) or request.version not in ("", spec.version):
            return None
        point = request.resume_point
        if point and (point.received.step, point.received.h) != (session.step_number, session.h):
            return None
        if point and (point.durable_step > session.step_number or point.store_id not in (b"", self._store_id())):
            return None
        return session

    def _keep(self, session_id: str, session: Session) -> None:
        if session.ended:
            return
        self._kept[session_id] = session
        self._kept.move_to_end(session_id)
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)


def _not_twice(timestep: Timestep, error: CellwireError) -> None:
    """An unnumbered message whose commit may have been executed is not run again here: nothing would notice.

    Raises:
        StoreUnavailable: its caller decides.
    """
    unanswered = isinstance(error, StoreUnavailable) and not isinstance(error, ClaimLost)
    if not timestep.step and (error.in_doubt or unanswered):
        raise StoreUnavailable("whether the timestep was committed is not known") from None


async def _pause(attempt: int, deadline: float, error: CellwireError) -> None:
    """Before the next look; the error stands when there is no time for one."""
    pause = PAUSE * 2 ** min(attempt, 6) * random.uniform(0.5, 1.5)  # noqa: S311 jitter, not a secret
    if time.monotonic() + pause > deadline:
        raise error
    await asyncio.sleep(pause)
