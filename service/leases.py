"""Keeps the claims of streams that send nothing: their leases would lapse and their sessions expire."""

import asyncio
import time

import structlog

from service.errors import CellwireError
from service.session import Session
from service.sessions import Sessions
from service.store.call import Unanswered
from service.store.store import Store

logger = structlog.get_logger(__name__)

BEATS_A_CALL = 256


class Leases:
    """Once an interval, a heartbeat for every held session that has not committed since; spread over the interval."""

    def __init__(self, sessions: Sessions, store: Store, interval: float) -> None:
        self._sessions = sessions
        self._store = store
        self._interval = interval

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            started = time.monotonic()
            idle = [s for s in self._sessions.live.values() if started - s.last_write >= self._interval / 2]
            parts = [idle[at : at + BEATS_A_CALL] for at in range(0, len(idle), BEATS_A_CALL)]
            for part in parts:
                await self._beat(part)
                await asyncio.sleep(self._interval / 2 / len(parts))
            await asyncio.sleep(max(0.0, started + self._interval - time.monotonic()))

    async def _beat(self, idle: list[Session]) -> None:
        answers = await self._store.heartbeat_batch([session.heartbeat() for session in idle])
        unanswered = sum(isinstance(answer, Unanswered) for answer in answers)
        if unanswered:
            logger.warning("leases.store_unavailable", sessions=unanswered)
        for session, answer in zip(idle, answers, strict=True):
            if isinstance(answer, Unanswered):
                continue
            if isinstance(answer, CellwireError) and answer.ends_stream:
                session.lose(answer)
            elif not isinstance(answer, CellwireError):
                session.last_write = time.monotonic()
