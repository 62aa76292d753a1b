"""The generic batcher: whatever happens to a batch, every waiter is answered."""

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from service.batcher import Batcher
from service.errors import CellwireError, Draining, NonFinite, StepDeadline, StoreFull
from tests.waiting import until

Results = Sequence[int | CellwireError]


class Machine:
    """What a batcher runs: doubles numbers, keeps what it was given, and waits at a gate while it is shut."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()
        self.answer: Callable[[Sequence[int]], Results] = lambda items: [2 * item for item in items]

    async def __call__(self, items: Sequence[int]) -> Results:
        self.batches.append(list(items))
        self.started.set()
        await self.gate.wait()
        return self.answer(items)


async def shut(machine: Machine, batcher: Batcher[int, int]) -> "asyncio.Future[int]":
    """The machine is busy with the item 0 until its gate opens."""
    machine.gate.clear()
    first = batcher.submit(0)
    await machine.started.wait()
    return first


async def test_what_arrives_while_a_batch_runs_forms_the_next() -> None:
    machine = Machine()
    async with Batcher(machine, 64) as batcher:
        first = await shut(machine, batcher)
        rest = [batcher.submit(item) for item in range(1, 6)]
        machine.gate.set()
        assert await first == 0
        assert await asyncio.gather(*rest) == [2, 4, 6, 8, 10]
    assert machine.batches == [[0], [1, 2, 3, 4, 5]]


async def test_an_idle_batcher_takes_what_the_event_loop_holds() -> None:
    machine = Machine()
    async with Batcher(machine, 64) as batcher:
        assert await asyncio.gather(*(batcher.submit(item) for item in range(5))) == [0, 2, 4, 6, 8]
        assert await batcher.submit(7) == 14
    assert machine.batches == [[0, 1, 2, 3, 4], [7]]


async def test_a_batch_has_a_largest_size_and_cost() -> None:
    machine = Machine()
    async with Batcher(machine, 3) as batcher:
        await asyncio.gather(*(batcher.submit(item) for item in range(7)))
    assert machine.batches == [[0, 1, 2], [3, 4, 5], [6]]

    machine = Machine()
    async with Batcher(machine, 64, 10, cost=float) as batcher:
        await asyncio.gather(*(batcher.submit(item) for item in (4, 6, 1, 50, 2, 9)))
    assert machine.batches == [[4, 6], [1], [50], [2], [9]]


async def test_a_cancelled_waiter_takes_nothing_from_the_others() -> None:
    machine = Machine()
    async with Batcher(machine, 64) as batcher:
        first = await shut(machine, batcher)
        waiting = [batcher.submit(item) for item in (1, 2, 3)]
        first.cancel()
        waiting[1].cancel()
        machine.gate.set()
        assert await waiting[0] == 2
        assert await waiting[2] == 6
        assert await batcher.submit(5) == 10
    # what was cancelled before its batch began was not run; what ran, ran to its end
    assert machine.batches == [[0], [1, 3], [5]]


async def test_a_waiter_that_raises_takes_no_answer_from_the_others() -> None:
    class Broken:
        left = False

        def set_result(self, _: int) -> None:
            raise ZeroDivisionError

        def set_exception(self, _: BaseException) -> None:
            raise ZeroDivisionError

    machine = Machine()
    async with Batcher(machine, 64) as batcher:
        first = await shut(machine, batcher)
        batcher.put(1, Broken())
        behind = batcher.submit(2)
        machine.gate.set()
        assert await first == 0
        assert await behind == 4
        assert await batcher.submit(3) == 6


async def test_an_item_whose_deadline_passed_is_not_run() -> None:
    machine = Machine()
    async with Batcher(machine, 64) as batcher:
        first = await shut(machine, batcher)
        now = time.monotonic()
        late, early, never = batcher.submit(1, now - 1), batcher.submit(2, now + 3600), batcher.submit(3)
        machine.gate.set()
        assert await first == 0
        with pytest.raises(StepDeadline):
            await late
        assert await early == 4
        assert await never == 6
    assert machine.batches == [[0], [2, 3]]


async def test_an_item_that_entered_a_batch_in_time_is_answered_however_long_that_takes() -> None:
    machine = Machine()
    machine.gate.clear()
    async with Batcher(machine, 64) as batcher:
        deadline = time.monotonic() + 0.05
        running = batcher.submit(1, deadline)
        await machine.started.wait()
        await until(lambda: time.monotonic() > deadline, "the deadline passed")
        machine.gate.set()
        assert await running == 2


async def test_an_error_of_one_item_is_its_own() -> None:
    machine = Machine()
    machine.answer = lambda items: [NonFinite("poison") if item == 2 else item for item in items]
    async with Batcher(machine, 64) as batcher:
        results = await asyncio.gather(*(batcher.submit(item) for item in (1, 2, 3)), return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], NonFinite)
    assert results[2] == 3


@pytest.mark.parametrize("error", [StoreFull("full"), ValueError("a bug")], ids=["refused", "unforeseen"])
async def test_a_failing_batch_fails_its_own_waiters_and_the_next_one_runs(error: Exception) -> None:
    machine = Machine()

    def fail(items: Sequence[int]) -> Results:
        raise error

    async with Batcher(machine, 64) as batcher:
        first = await shut(machine, batcher)
        second = batcher.submit(1)
        machine.answer = fail
        machine.gate.set()
        await asyncio.wait([first, second])
        assert first.exception() is error
        assert second.exception() is error
        machine.answer = lambda items: list(items)
        assert await batcher.submit(3) == 3


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]], ids=["none", "short", "long"])
async def test_results_that_do_not_fit_are_given_to_nobody(results: list[int]) -> None:
    machine = Machine()
    machine.answer = lambda items: results
    async with Batcher(machine, 64) as batcher:
        answers = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
        assert [type(answer) for answer in answers] == [RuntimeError, RuntimeError]
        machine.answer = lambda items: list(items)
        assert await batcher.submit(3) == 3


async def test_a_loop_that_dies_answers_all_who_wait_and_all_who_come() -> None:
    machine = Machine()

    def cancelled(items: Sequence[int]) -> Results:
        raise asyncio.CancelledError

    machine.answer = cancelled
    async with Batcher(machine, 1) as batcher:
        running = await shut(machine, batcher)
        waiting = batcher.submit(1)
        machine.gate.set()
        for future in (running, waiting):
            with pytest.raises(Draining):
                await future
        with pytest.raises(Draining):
            await batcher.submit(2)


async def test_a_cost_that_fails_is_told_to_its_own_submitter_only() -> None:
    machine = Machine()

    def cost(item: int) -> float:
        return 1 / item

    async with Batcher(machine, 64, 10, cost) as batcher:
        waiting = batcher.submit(1)
        with pytest.raises(ZeroDivisionError):
            batcher.submit(0)
        assert await waiting == 2
        assert await batcher.submit(2) == 4


async def test_a_batcher_that_closes_answers_the_running_and_the_waiting() -> None:
    machine = Machine()
    async with Batcher(machine, 1) as batcher:
        running = await shut(machine, batcher)
        waiting = [batcher.submit(item) for item in (1, 2)]
        assert len(batcher) == 2
    for future in (running, *waiting):
        assert isinstance(future.exception(), Draining)
    late = batcher.submit(3)
    assert isinstance(late.exception(), Draining)


async def test_a_batcher_closes_although_a_cancellation_is_lost() -> None:
    """As `asyncio.wait_for` of Python 3.11 loses one that meets its result."""
    started, forever = asyncio.Event(), asyncio.Event()

    async def deaf(items: Sequence[int]) -> Results:
        started.set()
        try:
            await forever.wait()
        except asyncio.CancelledError:
            return list(items)
        return []

    async with Batcher(deaf, 1) as batcher:
        running = batcher.submit(1)
        await started.wait()
    assert running.result() == 1
    with pytest.raises(Draining):
        await batcher.submit(2)


async def test_a_batcher_that_was_not_started_says_so() -> None:
    batcher: Batcher[int, int] = Batcher(Machine(), 1)
    with pytest.raises(Draining):
        await batcher.submit(1)


async def test_nobody_waits_for_ever_whoever_is_cancelled() -> None:
    """Each waiter is cancelled at another turn of the event loop; the rest get their own results."""
    machine = Machine()

    async def turns(items: Sequence[int]) -> Results:
        for _ in range(3):
            await asyncio.sleep(0)
        return await machine(items)

    async with Batcher(turns, 8) as batcher:

        async def ask(item: int) -> int:
            return await batcher.submit(item)

        tasks = [asyncio.create_task(ask(item)) for item in range(200)]
        for at in range(0, 200, 3):
            await asyncio.sleep(0)
            tasks[at].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for item, result in enumerate(results):
        if item % 3 == 0:
            assert isinstance(result, asyncio.CancelledError) or result == 2 * item
        else:
            assert result == 2 * item
