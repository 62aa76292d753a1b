"""What the store may answer, read back: garbage is an error of ours or a sound value, never another exception."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from service.codec import encode_status
from service.errors import CellwireError, StateCorrupt, Superseded
from service.store.call import Answer, Told
from service.store.outcome import Written, claimed, peeked, released, written
from service.store.scripts import Granted, Owner, Peek, Seen, claim_answer, peek_answer
from service.values import MAX_STEP
from tests.scripted import claim, new_key

OWNER = Owner(new_key(), b"i" * 16, b"o" * 16, 7)
WORDS = ["OK", "DUPLICATE", "FENCED", "MISMATCH", "GAP", "CONFLICT", "CLOSED", "GONE", "ERROR", "BUSY", "EXISTS"]
WORDS += ["UNKNOWN", "MISSING", "STALE_OPEN", "LINEAGE", "TOO_OLD", "REGRESSED", "MODEL_CHANGED", "MODEL_NOT_HERE"]

parts: st.SearchStrategy[bytes] = st.one_of(
    st.sampled_from([word.encode() for word in WORDS]),
    st.sampled_from([b"", b"-1", b"1_0", b" 1", b"\xd9\xa3", b"9" * 17, b"9" * 5000, b"m/1/ab", b"\xff", b"h" * 16]),
    st.integers(0, 2**64).map(lambda number: b"%d" % number),
    st.binary(max_size=20),
)
lists: st.SearchStrategy[list[bytes]] = st.lists(parts, max_size=14) | st.builds(
    lambda word, rest: [word.encode(), *rest], st.sampled_from(WORDS), st.lists(parts, min_size=4, max_size=12)
)
lines: st.SearchStrategy[bytes] = st.lists(parts, max_size=4).map(b" ".join)


def told(error: CellwireError) -> None:
    """It can be sent."""
    assert encode_status(error).message == error.message


def numbers(*values: int) -> None:
    assert all(0 <= value <= MAX_STEP for value in values)


@given(lists)
def test_a_claim_is_answered_by_a_grant_or_an_error(answer: list[bytes]) -> None:
    result = claimed(claim(new_key()), Told(answer), b"i" * 16)
    if isinstance(result, CellwireError):
        told(result)
        return
    assert isinstance(result, Granted)
    numbers(result.epoch, result.displaced_epoch, result.step, result.messages)
    assert (len(result.incarnation), len(result.h)) == (16, 16)


@given(lists | lines)
def test_a_peek_is_answered_by_what_is_seen_or_an_error(answer: Answer) -> None:
    result = peeked(Peek(new_key()), Told(answer))
    if isinstance(result, CellwireError):
        told(result)
        return
    assert isinstance(result, Seen)
    numbers(result.epoch, result.step, result.state_bytes)
    assert 0 <= result.lease_left <= MAX_STEP
    assert 0 <= result.expires_in <= MAX_STEP


@example(b"CLOSED " + b"9" * 30)
@example(b"MISMATCH -1")
@example(b"FENCED 1 \xff")
@given(lists | lines)
def test_a_write_is_answered_by_a_step_or_an_error(answer: Answer) -> None:
    result = written(OWNER, Told(answer))
    if isinstance(result, CellwireError):
        told(result)
    else:
        numbers(result.step)


@pytest.mark.parametrize("read", [claim_answer, peek_answer])
@given(lists)
def test_a_reader_raises_what_it_says(read: Any, answer: list[bytes]) -> None:
    try:
        read(answer)
    except (ValueError, IndexError):
        return


def test_an_answer_of_no_script_is_a_corrupt_session() -> None:
    answers: list[Answer] = [
        b"",
        b"ERROR",
        b"ERROR corrupt",
        b"ERROR X Y",
        b"\xff",
        b"ERROR SCRIPT",
        b"ERROR CORRUPT",
        [],
    ]
    for answer in answers:
        assert isinstance(written(OWNER, Told(answer)), StateCorrupt)


def test_a_release_behind_another_claim_is_no_write_that_was_fenced() -> None:
    def fenced() -> float | None:
        return REGISTRY.get_sample_value("cellwire_fenced_total")

    before, late = fenced() or 0.0, Told(b"FENCED 9 8")
    assert isinstance(released(OWNER, late), Written)
    assert fenced() == before
    assert isinstance(written(OWNER, late), Superseded)
    assert fenced() == before + 1
