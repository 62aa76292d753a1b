"""Resume points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwire.resume import ResumePoint


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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"resume_point": 2}', '{"resume_point": 1, "token": "zz"}', "null"])
def test_other_text_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="not a resume point of this release"):
        ResumePoint.from_json(text)
