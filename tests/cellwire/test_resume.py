"""Resume points."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    )
)
def test_a_point_comes_back_from_its_text(point: ResumePoint) -> None:
    assert ResumePoint.from_json(point.to_json()) == point


def test_a_point_hides_its_token() -> None:
    point = ResumePoint.new("s", "checker")
    assert point.token.hex() not in repr(point)
    assert repr(point.token) not in repr(point)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[" * 100_000, "9" * 5000, '{"resume_point": 2}', '{"resume_point": 1, "token": "zz"}', "null"],
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
