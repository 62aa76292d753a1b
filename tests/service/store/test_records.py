"""What is stored as bytes: what was written is read again, and hostile bytes are only ever told what they are."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import CodecTooNew, StateCorrupt
from service.store.records import (
    CODEC_VERSION,
    Options,
    Record,
    decode_options,
    decode_record,
    decode_state,
    encode_options,
    encode_record,
    encode_state,
)
from service.values import MAX_STEP, InputSpec
from tests.specs import F32, I64, spec

SPEC = spec(constants=(InputSpec("scale", F32, (2,)), InputSpec("lookup", I64, ())))
STATE = bytes(range(16))
RECORD = Record(4, 6, b"b" * 16, b"a" * 16, 3, b"some outputs")
OPTIONS = Options(("y",), (b"12345678", b"\n" * 8))


@given(st.binary(min_size=16, max_size=16))
def test_a_state_is_read_as_it_was_written(state: bytes) -> None:
    assert decode_state(SPEC, encode_state(SPEC, state)) == state


@given(
    st.builds(
        Record,
        first=st.integers(1, 1000),
        last=st.integers(1000, MAX_STEP),
        h_before=st.binary(min_size=16, max_size=16),
        h_after=st.binary(min_size=16, max_size=16),
        timesteps=st.integers(0, 4096),
        outputs=st.binary(max_size=100),
    )
)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


def test_options_are_read_as_they_were_written() -> None:
    assert decode_options(SPEC, encode_options(OPTIONS)) == OPTIONS


@given(st.integers(0, 8 * len(encode_state(SPEC, STATE)) - 1))
def test_one_wrong_bit_of_a_state_is_seen(bit: int) -> None:
    blob = bytearray(encode_state(SPEC, STATE))
    blob[bit // 8] ^= 1 << bit % 8
    with pytest.raises((StateCorrupt, CodecTooNew)):
        decode_state(SPEC, bytes(blob))


@given(st.integers(0, 8 * len(encode_record(RECORD)) - 1))
def test_one_wrong_bit_of_a_record_costs_the_reply(bit: int) -> None:
    body = bytearray(encode_record(RECORD))
    body[bit // 8] ^= 1 << bit % 8
    assert decode_record(bytes(body)) is None


@given(st.integers(0, len(encode_state(SPEC, STATE)) - 1))
def test_a_state_cut_short_is_corrupt(length: int) -> None:
    with pytest.raises(StateCorrupt):
        decode_state(SPEC, encode_state(SPEC, STATE)[:length])


@given(st.integers(0, len(encode_record(RECORD)) - 1))
def test_a_record_cut_short_is_none(length: int) -> None:
    assert decode_record(encode_record(RECORD)[:length]) is None


@pytest.mark.parametrize(
    "other",
    [
        spec(digest=b"e" * 16),
        spec(state=(SPEC.state[0], SPEC.state[0])),
        spec(state=()),
    ],
    ids=["another file", "more tensors", "fewer tensors"],
)
def test_a_state_of_another_model_is_corrupt(other: Any) -> None:
    blob = encode_state(other, other.initial_state)
    with pytest.raises(StateCorrupt):
        decode_state(SPEC, blob)


def test_a_state_of_a_newer_release_says_so() -> None:
    blob = bytearray(encode_state(SPEC, STATE))
    blob[2] = CODEC_VERSION + 1
    with pytest.raises(CodecTooNew):
        decode_state(SPEC, bytes(blob))


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1)])
def test_a_record_of_no_span_is_none(first: int, last: int) -> None:
    assert decode_record(encode_record(Record(first, last, b"b" * 16, b"a" * 16, 0, b""))) is None


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"CW\x01" + tail))
def test_any_bytes_as_a_state_are_corrupt_or_too_new(blob: bytes) -> None:
    with pytest.raises((StateCorrupt, CodecTooNew)):
        decode_state(SPEC, blob)


@given(st.binary(max_size=200))
def test_any_bytes_as_a_record_are_none(body: bytes) -> None:
    assert decode_record(body) is None


hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("y"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["outputs", "y"]), inner, max_size=2),
    max_leaves=6,
)


@given(
    st.binary(max_size=100)
    | hostile.map(lambda value: json.dumps(value).encode() + b"\n" + bytes(16))
    | hostile.map(lambda value: json.dumps({"outputs": value}).encode() + b"\n" + bytes(16))
)
def test_any_bytes_as_options_are_options_or_corrupt(blob: bytes) -> None:
    try:
        options = decode_options(SPEC, blob)
    except StateCorrupt:
        return
    assert options == Options(("y",), (bytes(8), bytes(8)))


@pytest.mark.parametrize(
    "blob",
    [b"[" * 100_000, b"9" * 10_000, b'{"outputs":["y","y"]}\n' + bytes(16), b'{"outputs":["y"]}\n' + bytes(15)],
    ids=["deep", "a huge number", "twice the same", "constants too short"],
)
def test_odd_options_are_corrupt(blob: bytes) -> None:
    with pytest.raises(StateCorrupt):
        decode_options(SPEC, blob)
