"""The generic batcher: what arrives while a batch runs forms the next one. No timer.

It serves three times, for the steps of a cell, and for claims and commits of the store, and knows none of them.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Generic, Protocol, TypeVar

import structlog

from service import tasks
from service.errors import CellwireError, Draining, StepDeadline

logger = structlog.get_logger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Answer = TypeVar("Answer", contravariant=True)


class Waiter(Protocol[Answer]):
    """Who waits for a result, and takes none once it has left."""

    @property
    def left(self) -> bool:
        """True: it waits no more."""

    def set_result(self, result: Answer, /) -> None:
        """The result."""

    def set_exception(self, error: BaseException, /) -> None:
        """Why there is none."""


class _Caller(Generic[Result]):
    """One who waits for a future."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[Result]) -> None:
        self._future = future

    @property
    def left(self) -> bool:
        return self._future.done()

    def set_result(self, result: Result, /) -> None:
        if not self._future.done():
            self._future.set_result(result)

    def set_exception(self, error: BaseException, /) -> None:
        if not self._future.done():
            self._future.set_exception(error)


LINGER_TURNS = 4
_Waiting = tuple[Item, Waiter[Result], float, float, float]
"""An item, its waiter, its cost, when it came, and until when it may be taken."""


class Batcher(Generic[Item, Result]):
    """Runs submitted items in batches. Every waiter is answered: by its result, its error, or the batch's.

    `run` gets at most max_items items of together at most max_cost (one item may be more) and gives a result or a
    CellwireError for each, in their order. A waiter that was cancelled takes nothing from the others.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | CellwireError]]],
        max_items: int,
        max_cost: float = inf,
        cost: Callable[[Item], float] | None = None,
        linger_turns: int = LINGER_TURNS,
    ) -> None:
        """`cost`: None if items cost nothing. `linger_turns`: so many turns of the event loop at most are waited for
        more, which is of no use where a batch's items come at once."""
        self._run = run
        self._max_items = max_items
        self._max_cost = max_cost
        self._cost = cost
        self._linger_turns = linger_turns
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self.oldest_wait = 0.0
        """Seconds that the oldest item of the running batch had waited."""
        self._idle: asyncio.Future[None] | None = None
        """Of the loop that waits for an item."""
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.Task[None] | None = None
        self._serving = False

    async def __aenter__(self) -> "Batcher[Item, Result]":
        self._event_loop = asyncio.get_running_loop()
        self._loop = asyncio.create_task(self._serve())
        self._serving = True
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._loop is not None:
            await tasks.end(self._loop)
        self._fail_waiting()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, item: Item, deadline: float = inf) -> asyncio.Future[Result]:
        """A future of the item's result; StepDeadline if the monotonic `deadline` passed before its batch was taken."""
        # not asyncio.get_running_loop(), which before Python 3.12 asks for the process's id each time
        loop = self._event_loop or asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self.put(item, _Caller(future), deadline)
        return future

    def put(self, item: Item, waiter: Waiter[Result], deadline: float = inf) -> None:
        """As `submit`, for a waiter of one's own."""
        if not self._serving:
            waiter.set_exception(_stopped())
            return
        # Costed here: an item that cannot be is its submitter's error and not the loop's.
        cost = 0.0 if self._cost is None else self._cost(item)
        self._waiting.append((item, waiter, cost, time.monotonic(), deadline))
        if self._idle is not None:
            idle, self._idle = self._idle, None
            if not idle.done():
                idle.set_result(None)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                if not self._waiting:
                    self._idle = loop.create_future()
                    await self._idle
                await self._gather()
                await self._answer(self._take())  # no name for it here: an idle batcher would hold its last batch
        finally:
            self._serving = False
            self._fail_waiting()

    async def _gather(self) -> None:
        """Lets the event loop hand over what it already holds, as long as each turn brings something new. What came
        alone was followed by nothing for a turn, the one in which this was woken."""
        before = 1
        for _ in range(self._linger_turns):
            if before == len(self._waiting) or len(self._waiting) >= self._max_items:
                return
            before = len(self._waiting)
            await asyncio.sleep(0)

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        waiting, now, cost = self._waiting, time.monotonic(), 0.0
        while waiting and len(batch) < self._max_items:
            first = waiting[0]
            _, waiter, its_cost, _, deadline = first
            if waiter.left or deadline < now:
                waiting.popleft()
                waiter.set_exception(_late())
                continue
            cost += its_cost
            if cost > self._max_cost and batch:
                break
            batch.append(waiting.popleft())
        if batch:
            self.oldest_wait = now - batch[0][3]
        return batch

    async def _answer(self, batch: list[_Waiting[Item, Result]]) -> None:
        if not batch:
            return
        items, waiters, *_ = zip(*batch, strict=True)
        try:
            results = await self._run(items)
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except CellwireError as error:
            _fail(waiters, error)
        except BaseException as error:
            _fail(waiters, _stopped() if isinstance(error, asyncio.CancelledError) else error)
            if not isinstance(error, Exception):
                raise
        else:
            for waiter, result in zip(waiters, results, strict=True):
                try:
                    if isinstance(result, CellwireError):
                        waiter.set_exception(result)
                    else:
                        waiter.set_result(result)
                except Exception:  # its own fault: the others have their answers, and the next batch its turn
                    logger.exception("batcher.waiter_failed")

    def _fail_waiting(self) -> None:
        waiting = [waiter for _, waiter, *_ in self._waiting]
        self._waiting.clear()
        _fail(waiting, _stopped())


def _late() -> CellwireError:
    return StepDeadline("the deadline passed before the timestep was started")


def _stopped() -> CellwireError:
    return Draining("the replica is stopping")


def _fail(waiters: Sequence[Waiter[Result]], error: BaseException) -> None:
    for waiter in waiters:
        waiter.set_exception(error)
