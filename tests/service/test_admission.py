"""Admission: what is counted in is counted out once, the limit follows the time that is measured, and comes back."""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission import FLOOR_BATCHES, LONGEST_DELAY, REFUSED_SHARE, Admission, Cap, InFlight, Rate
from service.errors import Overloaded, Quota

TARGET, BATCH, RUN = 0.05, 8, 0.004


class Clock:
    """Time as a test has it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, rate: float = 0.0, batch: int = BATCH, run: float = RUN) -> Admission:
    return Admission(TARGET, batch, run, Rate(rate, clock), clock)


def filled(admission: Admission, priority: int = 0) -> list[InFlight]:
    """Places taken until one is refused."""
    taken: list[InFlight] = []
    while True:
        place = admission.step(priority)
        try:
            place.__enter__()
        except Overloaded:
            return taken
        taken.append(place)


def leave(taken: Sequence[InFlight]) -> None:
    for place in taken:
        place.__exit__(None)


def served(admission: Admission, clock: Clock, seconds: float, windows: int, wanted: int = 10**6) -> None:
    """So many windows in which as many as are admitted, and wanted, take so long."""
    until = clock.now + windows * 2 * TARGET
    while clock.now < until:
        taken: list[InFlight] = []
        while len(taken) < wanted:
            place = admission.step()
            try:
                place.__enter__()
            except Overloaded:
                break
            taken.append(place)
        clock.now += seconds
        leave(taken)


def test_it_begins_at_what_the_cell_can_run_within_the_target() -> None:
    assert len(filled(made(Clock()))) == round(BATCH * TARGET / RUN)


def test_the_limit_falls_when_timesteps_take_too_long_and_comes_back() -> None:
    clock = Clock()
    admission = made(clock)
    before = admission.limit
    served(admission, clock, 3 * TARGET, 100)
    low = admission.limit
    assert 1 <= low <= before / 2 + 1
    served(admission, clock, TARGET / 2, 100)
    assert admission.limit > before


def test_a_fast_cell_is_never_held_below_so_many_batches() -> None:
    clock = Clock()
    admission = made(clock, batch=64, run=0.0001)
    served(admission, clock, 20 * TARGET, 1000, wanted=64)
    assert admission.limit == FLOOR_BATCHES * 64
    assert len(filled(admission)) == FLOOR_BATCHES * 64


@pytest.mark.parametrize("run", [0.001, 0.05, 1.0, 60.0])
def test_one_is_always_admitted(run: float) -> None:
    clock = Clock()
    admission = made(clock, batch=1, run=run)
    served(admission, clock, 100 * run, 200)
    assert admission.in_flight == 0
    for priority in (-(2**31), 0):
        with admission.step(priority):
            assert admission.in_flight == 1


def test_the_limit_does_not_grow_while_it_is_not_reached() -> None:
    clock = Clock()
    admission = made(clock)
    before = admission.limit
    served(admission, clock, TARGET / 10, 50, wanted=3)
    assert admission.limit == before


GOOD = 0.1


def simulated(offered: float, batch_seconds: float, seconds: float = 6.0) -> tuple[float, Admission]:
    """Replies a second within GOOD of their arrival, from a cell that runs one batch after the other.

    The admission believes that a run takes RUN; `batch_seconds` is how long one really takes. Arrivals are Poisson's.
    The first half is not counted.
    """
    clock, draw = Clock(), random.Random(7)
    admission, start = made(clock), clock.now
    queue: deque[tuple[float, InFlight]] = deque()
    running: list[tuple[float, InFlight]] = []
    arrival, end, good = start + draw.expovariate(offered), inf, 0
    while clock.now < start + seconds:
        clock.now = min(arrival, end)
        if arrival <= end:
            place = admission.step()
            with suppress(Overloaded):
                place.__enter__()
                queue.append((arrival, place))
            arrival += draw.expovariate(offered)
        else:
            for came, place in running:
                place.__exit__(None)
                good += clock.now - came <= GOOD and came > start + seconds / 2
            running, end = [], inf
        if not running and queue:
            running = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
            end = clock.now + batch_seconds
    return good / (seconds / 2), admission


@pytest.mark.parametrize("slower", [0.5, 1, 3, 6], ids="{}x".format)
def test_goodput_at_four_times_the_capacity_is_that_at_capacity(slower: float) -> None:
    """Also where runs take other than the model was warmed up with, because the machine has other things to do."""
    capacity = BATCH / (slower * RUN)
    once, _ = simulated(capacity, slower * RUN)
    fourfold, admission = simulated(4 * capacity, slower * RUN)
    assert fourfold >= 0.9 * max(once, 0.9 * capacity)
    assert admission.in_flight <= admission.limit + BATCH


def test_nearly_nothing_is_refused_below_capacity() -> None:
    offered = 0.7 * BATCH / RUN
    goodput, _ = simulated(offered, RUN)
    assert goodput >= 0.97 * offered


def test_new_sessions_go_first_and_then_the_lower_priorities() -> None:
    admission = made(Clock())
    admitted = {}
    for priority in (-(2**31), -5, -1, 0, 1, 5, 2**31 - 1):
        taken = filled(admission, priority)
        admitted[priority] = len(taken)
        leave(taken)
    assert admitted[-(2**31)] == admitted[-5] < admitted[-1] < admitted[0] < admitted[1] < admitted[5]
    assert admitted[5] == admitted[2**31 - 1]
    taken = [admission.step() for _ in range(admitted[-5] - 1)]
    for place in taken:
        place.__enter__()
    with pytest.raises(Overloaded):
        admission.open()
    with admission.step(-5):
        pass
    leave(taken)
    admission.open()


def test_who_is_refused_is_told_when_to_come_later_the_more_are_refused() -> None:
    clock = Clock()
    admission = made(clock)

    def delays(refused_a_round: int) -> list[float]:
        told: list[float] = []
        for _ in range(40):
            taken = filled(admission)
            for _ in range(refused_a_round):
                with pytest.raises(Overloaded) as refused:
                    admission.check()
                assert refused.value.retry_after is not None
                told.append(refused.value.retry_after)
            clock.now += TARGET / 4
            leave(taken)
        return told[len(told) // 2 :]

    few, many = delays(5), delays(400)
    assert len(set(few)) > 10
    assert 0 < sum(few) / len(few) < sum(many) / len(many)
    assert max(many) <= LONGEST_DELAY
    clock.now += 3 * LONGEST_DELAY
    leave(filled(admission))
    taken = filled(admission)
    with pytest.raises(Overloaded) as refused:
        admission.check()
    assert refused.value.retry_after is not None
    assert refused.value.retry_after <= 1.5 * TARGET
    leave(taken)


def test_a_crowd_that_stays_away_as_told_neither_starves_the_cell_nor_is_refused_much() -> None:
    """Streams that together ask for four times the capacity; the second half of the time counts."""
    clock, draw, seconds = Clock(), random.Random(3), 60.0
    admission, capacity, streams = made(clock), BATCH / RUN, 400
    interval, start = streams / (4 * capacity), clock.now
    coming = [(start + draw.uniform(0, interval), stream) for stream in range(streams)]
    heapq.heapify(coming)
    queue: deque[InFlight] = deque()
    running: list[InFlight] = []
    end, done, refused = inf, 0, 0
    while clock.now < start + seconds:
        counts = clock.now > start + seconds / 2
        clock.now = min(coming[0][0], end)
        if coming[0][0] <= end:
            at, stream = heapq.heappop(coming)
            place = admission.step()
            try:
                place.__enter__()
            except Overloaded as error:
                refused += counts
                at += error.retry_after or 0.0
            else:
                queue.append(place)
            heapq.heappush(coming, (at + interval, stream))
        else:
            leave(running)
            done += counts * len(running)
            running, end = [], inf
        if not running and queue:
            running = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
            end = clock.now + RUN
    assert done / (seconds / 2) > 0.9 * capacity
    assert refused < 2 * REFUSED_SHARE * done


def test_nothing_is_counted_for_who_is_refused_by_the_rate() -> None:
    clock = Clock()
    admission = made(clock, rate=1.0)
    with admission.step():
        pass
    with pytest.raises(Quota), admission.step():
        pytest.fail("entered")
    assert admission.in_flight == 0


def test_a_rate_below_one_lets_one_in_now_and_then() -> None:
    clock = Clock()
    rate = Rate(0.5, clock)
    for _ in range(3):
        rate.take(1)
        with pytest.raises(Quota) as refused:
            rate.take(1)
        assert refused.value.retry_after == pytest.approx(2.0)
        clock.now += 2.0


def test_a_rate_holds_one_second_and_tells_when_the_next_may_come() -> None:
    clock = Clock()
    rate = Rate(10, clock)
    for _ in range(10):
        rate.take(1)
    with pytest.raises(Quota) as refused:
        rate.take(1)
    assert refused.value.retry_after == pytest.approx(0.1)
    assert refused.value.quota == "max_steps_per_second"
    clock.now += 0.11
    rate.take(1)
    clock.now += 3600
    rate.take(64)  # more than it ever holds: overdrawn, and paid back
    clock.now += 5.4
    with pytest.raises(Quota):
        rate.take(1)
    clock.now += 0.2
    rate.take(1)


def test_no_rate_and_no_cap_refuse_nobody() -> None:
    rate, cap = Rate(0), Cap("any", 0)
    for _ in range(1000):
        rate.take(64)
        with cap.one(), cap.one():
            pass


def test_a_cap_counts_in_and_out() -> None:
    cap = Cap("max_streams", 2)
    with cap.one():
        with cap.one():
            with pytest.raises(Quota) as refused, cap.one():
                pytest.fail("entered")
            assert refused.value.quota == "max_streams"
        with pytest.raises(KeyError), cap.one():
            raise KeyError
        assert cap.count == 1
    assert cap.count == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "leave", "fail", "open", "wait"]),
            st.integers(-(2**31), 2**31 - 1),
            st.floats(0, 1),
        ),
        max_size=200,
    ),
    st.integers(1, 64),
    st.floats(1e-5, 1.0),
)
def test_it_counts_out_exactly_what_it_counted_in(acts: list[tuple[str, int, float]], batch: int, run: float) -> None:
    clock = Clock()
    admission = made(clock, batch=batch, run=run)
    inside: list[InFlight] = []
    for act, value, seconds in acts:
        if act == "enter":
            place = admission.step(value, 1 + value % 64)
            try:
                place.__enter__()
            except Overloaded:
                assert inside
            else:
                inside.append(place)
        elif act in ("leave", "fail") and inside:
            place = inside.pop(value % len(inside))
            place.__exit__(None if act == "leave" else KeyError)
        elif act == "open":
            try:
                admission.open()
            except Overloaded:
                assert inside
        clock.now += seconds if act == "wait" else seconds / 1000
        assert admission.in_flight == len(inside)
        assert admission.limit >= 1


async def test_a_cancelled_one_is_counted_out() -> None:
    admission = made(Clock())
    entered = asyncio.Event()

    async def work() -> None:
        with admission.step():
            entered.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await entered.wait()
    assert admission.in_flight == 1
    working.cancel()
    await asyncio.wait([working])
    assert admission.in_flight == 0
