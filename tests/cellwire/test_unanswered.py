"""The bookkeeping of unanswered messages, against whatever a stream may do."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


ACTS = st.lists(
    st.tuples(st.sampled_from(["add", "send", "answer", "later", "refuse", "end", "leave"]), st.integers(1, 3)),
    max_size=60,
)


@given(ACTS)
def test_numbers_stay_consecutive_and_each_message_is_answered_at_most_once(
    loop: asyncio.AbstractEventLoop, acts: list[tuple[str, int]]
) -> None:
    book, server, done = book_of(4), 0, 0  # `server` is where a session stands that executes what it gets
    on_wire: list[tuple[int, Message]] = []  # with the number that was sent
    for act, size in acts:
        if act == "add":
            book.add(message(loop, size))
        elif act == "send" and (sent := book.take()) is not None:
            on_wire.append((sent.step, sent))
        elif act == "end":
            server = max([server, *(m.last_step for _, m in on_wire[: size - 1])])  # executed, its reply lost
            on_wire.clear()
            book.stream_ended()
        elif act == "leave" and len(book):
            list(book)[min(size, len(book)) - 1].answer.cancel()
        elif act in ("answer", "later", "refuse") and on_wire:
            number, first = on_wire.pop(0)
            assert book.sent_at(number) is first
            if number > server + 1:  # a gap, and only behind a refused one
                assert book.going_back
                book.go_back(first)
            elif first.last_step <= server or act == "answer":
                server = max(server, first.last_step)
                assert book.answered(first.last_step) is first
                done += 1
            elif act == "later":
                book.go_back(first)
            else:
                book.withdraw(first, ValueError("refused"))
        numbers = [(m.step, m.last_step) for m in book]
        assert [first for first, _ in numbers] == [book.received_step + 1, *(last + 1 for _, last in numbers)][:-1]
        flags = [m.on_stream or m.in_doubt for m in book]
        if not book.going_back:
            assert flags == sorted(flags, reverse=True)  # what was sent stands before what was not


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


def test_everyone_who_waits_is_told(loop: asyncio.AbstractEventLoop) -> None:
    settled = 0

    def settle() -> None:
        nonlocal settled
        settled += 1

    book = Unanswered(4, settle)
    waiting = [message(loop) for _ in range(3)]
    for each in waiting:
        book.add(each)
    assert book.fail(ValueError("over"))
    assert settled == 3
    assert all(isinstance(each.answer.exception(), ValueError) for each in waiting)
    assert not book.fail(ValueError("over"))
