"""The undurable tail of a session in write-behind: messages that were run and answered and are not in the store yet.

Knows when to write and how far the store is; what a commit holds is its Session's matter.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from service.batcher import Waiter
from service.errors import CellwireError, StoreFull, StoreUnavailable
from service.store.outcome import Written
from service.store.records import Record
from service.values import Checkpoint


@dataclass(frozen=True, slots=True)
class TailTerms:
    """When a tail is written, and how long it may grow."""

    steps: int
    """Written when it has so many,"""
    seconds: float
    """or after so long."""
    most: int
    """U: the session does not go on beyond so many undurable steps."""


class Tail:
    """Writes in order, one commit at a time; what comes meanwhile goes with the next one.

    `write` sends the commit of all records onto the durable checkpoint, with the state after the last of them; `lost`
    is called with the reason when the store did not take it: the answers that were given stay above what the store
    has, and the client replays.
    """

    def __init__(
        self,
        terms: TailTerms,
        durable: Checkpoint,
        write: Callable[[Checkpoint, tuple[Record, ...], bytes], "asyncio.Future[Written]"],
        lost: Callable[[CellwireError], None],
    ) -> None:
        self.durable = durable
        """Where the store stands."""
        self.degraded = False
        """The last commit is held by fewer store replicas than were asked for."""
        self._terms = terms
        self._write = write
        self._lost = lost
        self._records: list[Record] = []
        self._state = b""
        """After the last of the records."""
        self._flying: asyncio.Future[Written] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: tuple[int, Waiter[None]] | None = None
        """For room: a session runs one message at a time."""

    @property
    def _steps(self) -> int:
        return self._records[-1].last - self.durable.step if self._records else 0

    def add(self, record: Record, state: bytes) -> None:
        """One more message that was run, and the state after it."""
        self._records.append(record)
        self._state = state
        if self._steps >= self._terms.steps:
            self._flush()
        else:
            self._flush_later()

    def has_room(self, steps: int) -> bool:
        """Whether the session may go on by so many steps now."""
        return not self._records or self._steps + steps <= self._terms.most

    def put(self, item: int, waiter: Waiter[None], _: float) -> None:
        """Answers the waiter once the session may go on by `item` steps, or the tail was lost."""
        self._waiting = item, waiter
        self._flush()

    async def settled(self) -> None:
        """Returns once the tail is in the store, or was lost."""
        while self._records:
            await self._written()

    async def _written(self) -> None:
        self._flush()
        if self._flying:
            await asyncio.wait((self._flying,))

    def _flush_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._terms.seconds, self._flush)

    def _flush(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._records and self._flying is None:
            records = tuple(self._records)
            self._flying = self._write(self.durable, records, self._state)
            self._flying.add_done_callback(lambda flown: self._flown(records, flown))

    def _flown(self, records: tuple[Record, ...], flown: "asyncio.Future[Written]") -> None:
        self._flying = None
        try:
            self.degraded = flown.result().degraded
        except StoreFull:
            self._give_up(StoreUnavailable("the store's memory is full"))
        except CellwireError as error:
            self._give_up(error)
        except BaseException:
            self._give_up(StoreUnavailable("the outcome of a commit is not known; resume"))
            raise
        else:
            self.durable = Checkpoint(records[-1].last, records[-1].h_after)
            del self._records[: len(records)]
            if self._steps >= self._terms.steps:
                self._flush()
            elif self._records:
                self._flush_later()
            self._let_go_on()

    def _let_go_on(self) -> None:
        if self._waiting is None:
            return
        steps, waiter = self._waiting
        if waiter.left:
            self._waiting = None
        elif self.has_room(steps):
            self._waiting = None
            waiter.set_result(None)
        else:
            self._flush()

    def _give_up(self, error: CellwireError) -> None:
        self._records.clear()
        self._lost(error)
        self._let_go_on()
