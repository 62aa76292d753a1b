"""Resume points."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwire.errors import Position
from cellwire.resume import ResumePoint
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import resume_pb2


@given(
    st.builds(
        ResumePoint,
        session_id=st.text(),
        token=st.binary(max_size=16),
        model=st.text(),
        version=st.text(),
        step=st.integers(0, 2**53),
        h=st.binary(max_size=16),
        durable_step=st.integers(0, 2**53),
        epoch=st.integers(0, 2**60),
        store_id=st.binary(max_size=16),
        incarnation=st.binary(max_size=16),
        undurable=st.lists(st.tuples(st.integers(0, 2**53), st.binary(max_size=16))).map(tuple),
    )
)
def test_a_point_comes_back_from_its_text(point: ResumePoint) -> None:
    assert ResumePoint.from_json(point.to_json()) == point


def test_a_point_hides_its_token() -> None:
    point = ResumePoint.new("s", "checker")
    assert point.token.hex() not in repr(point)
    assert repr(point.token) not in repr(point)


def test_the_text_of_the_release_before_is_read() -> None:
    text = (
        '{"resume_point": 1, "session_id": "s", "token": "00ff", "model": "checker", "version": "1", "step": 7,'
        ' "h": "0a", "durable_step": 7, "epoch": 3, "store_id": "aa", "incarnation": "bb"}'
    )
    assert ResumePoint.from_json(text) == ResumePoint(
        "s", b"\x00\xff", "checker", "1", 7, b"\n", 7, 3, b"\xaa", b"\xbb"
    )


def test_a_point_goes_back_to_where_the_store_stands() -> None:
    point = ResumePoint("s", b"t" * 16, "checker", "1", 9, b"h9", 7, 4, b"store", b"i", ((8, b"h8"), (9, b"h9")))
    back = point.back_to(Position(5, b"h5", 3, b"i", b"store"))
    assert (back.step, back.h, back.durable_step, back.epoch, back.undurable) == (5, b"h5", 5, 3, ())
    assert back.message().received.step == back.message().durable_step == 5


def test_the_wire_gets_the_undurable_steps() -> None:
    told = ResumePoint("s", b"t" * 16, step=9, h=b"h9", durable_step=7, undurable=((8, b"h8"), (9, b"h9"))).message()
    assert [(pair.step, pair.h) for pair in told.undurable] == [(8, b"h8"), (9, b"h9")]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "[]",
            "{}",
            "[" * 100_000,
            "9" * 5000,
            "null",
            '{"resume_point": 3}',
            '{"resume_point": 1, "token": "zz"}',
        ),
        '{"resume_point": 2, "session_id": "s", "token": "", "h": "", "store_id": "", "incarnation": "", '
        '"undurable": [[1, "zz"]]}',
    ],
)
def test_other_text_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="not a resume point of this release"):
        ResumePoint.from_json(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just("00" * 16),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
GOOD = json.loads(ResumePoint("s", b"t" * 16, "m", "1", 3, b"h" * 16, 2, 7, b"store", b"i" * 16).to_json())


@given(
    st.text(max_size=60)
    | st.dictionaries(st.sampled_from([*GOOD, "more"]), values).map(lambda odd: json.dumps(GOOD | odd))
)
def test_any_text_is_a_point_or_refused(text: str) -> None:
    try:
        point = ResumePoint.from_json(text)
    except ValueError:
        return
    assert all(isinstance(name, str) for name in (point.session_id, point.model, point.version))
    message = point.message()
    assert (message.received.step, message.durable_step) == (point.step, point.durable_step)
    assert pb.Open(found_epoch=point.epoch).found_epoch == point.epoch
    assert resume_pb2.ResumePoint.FromString(message.SerializeToString()) == message
    assert ResumePoint.from_json(point.to_json()) == point
