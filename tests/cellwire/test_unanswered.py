"""The bookkeeping of unanswered messages, and of answered ones that are kept, against whatever a stream may do."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwire.errors import LineageMismatch, Position, StateRegressed
from cellwire.tail import Tail
from cellwire.unanswered import Message, Run, Unanswered
from cellwire.v1 import cell_service_pb2 as pb


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def message(loop: asyncio.AbstractEventLoop, steps: int = 1, run: Run | None = None) -> Message:
    request = pb.StreamRequest(timestep=pb.Timestep(timesteps=steps))
    return Message(request, steps, loop.create_future(), 0.0, run)


def book_of(window: int, received_step: int = 0, settled: Callable[[], None] = lambda: None) -> Unanswered:
    book = Unanswered(received_step, settled)
    book.window = window
    return book


def h_of(step: int) -> bytes:
    """The digest of the only history there is."""
    return b"h%d" % step


def place(step: int) -> Position:
    return Position(step, h_of(step), 0, b"", b"")


ACTS = st.lists(
    st.tuples(st.sampled_from(["add", "send", "answer", "later", "refuse", "end", "leave", "fall"]), st.integers(1, 3)),
    max_size=60,
)


@given(ACTS, st.integers(0, 4))
def test_numbers_stay_consecutive_and_each_message_is_answered_at_most_once(
    loop: asyncio.AbstractEventLoop, acts: list[tuple[str, int]], kept: int
) -> None:
    settled: list[None] = []
    book, tail = book_of(4, settled=lambda: settled.append(None)), Tail(kept, 10**6)
    tail.begin((0, h_of(0)))
    server, given, answered = 0, 0, loop.create_future()  # `server`: where a session stands that executes what it gets
    answered.set_result(pb.Reply())
    on_wire: list[tuple[int, Message]] = []  # with the number that was sent
    delivered: list[tuple[int, int]] = []  # the numbers of each message whose reply the application got
    for act, size in acts:
        if act == "add":
            book.add(message(loop, size))
            given += 1
        elif act == "send" and (sent := book.take()) is not None:
            on_wire.append((sent.step, sent))
        elif act == "end":
            server = max([server, *(m.last_step for _, m in on_wire[: size - 1])])  # executed, its reply lost
            on_wire.clear()
            book.stream_ended()
        elif act == "fall":
            reached = [0, *(last for _, last in delivered)]
            step = reached[max(len(reached) - 1 - size, 0)]
            on_wire.clear()
            book.stream_ended()
            if step < book.received_step:
                try:
                    again = tail.back_to(place(step))
                except StateRegressed:
                    return  # told, and the session has ended
                book.fall_back(
                    step, [Message(a.request, a.steps, answered, 0.0, in_doubt=True, answered_h=a.h) for a in again]
                )
            server = min(server, max(step, book.received_step))
        elif act == "leave" and len(book):
            list(book)[min(size, len(book)) - 1].answer.cancel()
        elif act in ("answer", "later", "refuse") and on_wire:
            number, first = on_wire.pop(0)
            assert book.sent_at(number) is first
            if number > server + 1:  # a gap, and only behind a refused one
                assert book.going_back
                book.go_back(first)
            elif first.last_step <= server or act == "answer" or (first.answered_h and act == "refuse"):
                server = max(server, first.last_step)
                assert book.answered(first.last_step) is first
                tail.add(first, h_of(first.last_step), first.last_step)
                if first.answered_h:
                    assert first.answered_h == h_of(first.last_step)
                    assert (first.step, first.last_step) in delivered
                else:
                    delivered.append((first.step, first.last_step))
            elif act == "later":
                book.go_back(first)
            else:
                book.withdraw(first, ValueError("refused"))
        numbers = [(m.step, m.last_step) for m in book]
        assert [first for first, _ in numbers] == [book.received_step + 1, *(last + 1 for _, last in numbers)][:-1]
        assert sum(m.on_stream for m in book) <= 4
        assert len(settled) == given - sum(not m.answered_h for m in book)
        flags = [m.on_stream or m.in_doubt for m in book]
        if not book.going_back:
            assert flags == sorted(flags, reverse=True)  # what was sent stands before what was not
    assert [first for first, _ in delivered] == [1, *(last + 1 for _, last in delivered)][:-1]


@given(st.lists(st.integers(1, 3), max_size=20), st.integers(0, 6), st.integers(0, 400), st.integers(0, 30))
def test_a_tail_keeps_all_that_is_not_durable_and_no_more_than_its_limits(
    loop: asyncio.AbstractEventLoop, sizes: list[int], max_messages: int, max_bytes: int, lag: int
) -> None:
    tail, book, steps = Tail(max_messages, max_bytes), book_of(1), [0]
    tail.begin((0, h_of(0)))
    for size in sizes:
        book.add(message(loop, size))
        book.take()
        steps.append(steps[-1] + size)
        answered = book.answered(steps[-1])
        assert answered is not None
        durable = max(steps[-1] - lag, 0)
        tail.add(answered, h_of(steps[-1]), durable)
        held = list(tail.above(0))
        assert held == [(step, h_of(step)) for step in steps[len(steps) - len(held) :]]
        assert {step for step in steps[1:] if step > durable} <= {step for step, _ in held}
        durably = [step for step, _ in held if step <= durable]
        assert not durably or (len(held) <= max_messages and len(held) * answered.request.ByteSize() <= max_bytes + 99)
    for step in reversed(steps[len(steps) - len(tail) - 1 :]):
        with pytest.raises(LineageMismatch):
            tail.back_to(replace(place(step), h=b"other"))
        again = tail.back_to(place(step))
        assert [a.checkpoint[0] for a in again] == [each for each in steps if each > step][:1]
        steps = [each for each in steps if each <= step]
    assert not len(tail)
    if steps[:-1]:
        with pytest.raises(StateRegressed):
            tail.back_to(place(steps[-2]))


def test_a_reply_out_of_its_turn_is_noticed(loop: asyncio.AbstractEventLoop) -> None:
    book = book_of(2)
    for _ in range(2):
        book.add(message(loop))
        book.take()
    with pytest.raises(ValueError, match="out of its turn"):
        book.answered(2)
    assert book.answered(1) is not None
    assert book.answered(1) is None


def test_behind_a_refused_message_of_a_run_nothing_of_it_goes_out(loop: asyncio.AbstractEventLoop) -> None:
    book, run = book_of(3), Run()
    refused, behind, other = message(loop, run=run), message(loop, run=run), message(loop)
    for each in (refused, behind, other):
        book.add(each)
        assert book.take() is each
    book.withdraw(refused, ValueError())
    assert book.take() is None  # the stream still owes the refusals of what is behind it
    book.go_back(behind)
    book.go_back(other)
    assert book.take() is other
    assert other.step == 1
    assert behind.answer.cancelled()
    assert run.refusal is not None


def test_what_comes_back_goes_first_within_the_window_and_takes_nobodys_room(loop: asyncio.AbstractEventLoop) -> None:
    settled: list[None] = []
    book = book_of(2, 9, lambda: settled.append(None))
    new = message(loop)
    book.add(new)
    again = [message(loop) for _ in range(3)]
    for step, each in enumerate(again, 7):
        each.request.timestep.step, each.answered_h = step, h_of(step)
    book.fall_back(6, again)
    assert [book.take(), book.take(), book.take()] == [*again[:2], None]
    for each in again:
        assert book.answered(each.step) is each
        book.take()
    assert not settled
    assert book.answered(10) is new
    assert len(settled) == 1


def test_everyone_who_waits_is_told(loop: asyncio.AbstractEventLoop) -> None:
    settled = 0

    def settle() -> None:
        nonlocal settled
        settled += 1

    book = book_of(8, 4, settle)
    waiting = [message(loop) for _ in range(3)]
    for each in waiting:
        book.add(each)
    assert book.fail(ValueError("over"))
    assert settled == 3
    assert all(isinstance(each.answer.exception(), ValueError) for each in waiting)
    assert not book.fail(ValueError("over"))
