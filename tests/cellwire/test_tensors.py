"""Arrays over the wire and back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cellwire.tensors import TensorSpec, decode, encode, encode_frame, stack_frames
from cellwire.v1 import tensor_pb2

DTYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">f4", ">i8", ">u2"]


@given(st.sampled_from(DTYPES).flatmap(lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, min_side=0))))
def test_arrays_come_back_as_they_went(array: np.ndarray[Any, Any]) -> None:
    sent = tensor_pb2.Tensor.FromString(encode(array, "x").SerializeToString())
    back = decode(sent)
    assert sent.name == "x"
    assert back.dtype == array.dtype.newbyteorder("<")
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert not back.flags.writeable


def test_an_array_that_is_not_contiguous_travels_in_row_major_order() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    np.testing.assert_array_equal(decode(encode(array)), array)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([None])])
def test_what_has_no_dtype_of_the_wire_cannot_be_sent(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(TypeError):
        encode(array)


@pytest.mark.parametrize(
    "tensor",
    [
        tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2], data=bytes(7)),
        tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[-2, -1], data=bytes(8)),
        tensor_pb2.Tensor(shape=[1], data=bytes(4)),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tensor: tensor_pb2.Tensor) -> None:
    with pytest.raises(ValueError):
        decode(tensor)


SPECS = {"x": TensorSpec("x", np.dtype("f4"), (2,)), "n": TensorSpec("n", np.dtype("i8"), ())}


def test_lists_and_numbers_get_the_dtype_of_the_model() -> None:
    tensors = encode_frame({"x": [1, 2], "n": 3}, SPECS)
    assert [(t.name, t.dtype) for t in tensors] == [
        ("x", tensor_pb2.DATA_TYPE_FLOAT32),
        ("n", tensor_pb2.DATA_TYPE_INT64),
    ]


def test_one_array_is_not_enough_for_two_inputs() -> None:
    with pytest.raises(ValueError, match="x, n"):
        encode_frame(np.zeros(2, np.float32), SPECS)


def test_frames_are_stacked_along_a_leading_axis() -> None:
    stacked = stack_frames([{"x": [1, 2], "n": 3}, {"x": [4, 5], "n": 6}], SPECS)
    assert isinstance(stacked, dict)
    np.testing.assert_array_equal(stacked["x"], np.array([[1, 2], [4, 5]], np.float32))
    np.testing.assert_array_equal(stacked["n"], [3, 6])
