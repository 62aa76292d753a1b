"""numpy arrays to tensors of the wire and back: raw little-endian bytes, explicit dtype and shape.

The only copy out is the one into the message; arrays that come in are read-only views of the received bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellwire.v1 import tensor_pb2

Array = NDArray[Any]
Frame = ArrayLike | Mapping[str, ArrayLike]
"""One timestep: the array of a model with one input, or input name -> array. Shapes without a batch axis."""

_DTYPES: dict[tensor_pb2.DataType, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_BOOL: np.dtype("?"),
    tensor_pb2.DATA_TYPE_UINT8: np.dtype("u1"),
    tensor_pb2.DATA_TYPE_INT8: np.dtype("i1"),
    tensor_pb2.DATA_TYPE_UINT16: np.dtype("<u2"),
    tensor_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
    tensor_pb2.DATA_TYPE_UINT32: np.dtype("<u4"),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_UINT64: np.dtype("<u8"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model expects or gives: `shape` is of one timestep of one session, with no batch and no time axis."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def spec_of(spec: tensor_pb2.TensorSpec) -> TensorSpec:
    """A spec as the service told it."""
    return TensorSpec(spec.name, _DTYPES[spec.dtype], tuple(spec.shape))


def encode(array: Array, name: str = "") -> tensor_pb2.Tensor:
    """An array as a tensor. TypeError for a dtype that does not travel (text, objects, complex)."""
    little = array.dtype.newbyteorder("<")
    number = _NUMBERS.get(little)
    if number is None:
        raise TypeError(f"an array of {array.dtype} cannot be sent")
    if array.dtype != little:
        array = array.astype(little)
    return tensor_pb2.Tensor(name=name, dtype=number, shape=array.shape, data=array.tobytes())


def decode(tensor: tensor_pb2.Tensor) -> Array:
    """A read-only array over the tensor's bytes. ValueError if these are not as its dtype and shape say."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise ValueError(f"tensor {tensor.name!r} has an unknown dtype ({tensor.dtype})")
    shape, raw = tuple(tensor.shape), tensor.data
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"tensor {tensor.name!r} has {len(raw)} bytes, not {dtype.name}{list(shape)}")
    return np.frombuffer(raw, dtype).reshape(shape)


def encode_frame(frame: Frame, specs: Mapping[str, TensorSpec]) -> list[tensor_pb2.Tensor]:
    """The inputs of one message. Numbers and lists become arrays of the model's dtype; arrays travel as they are.

    ValueError for a single array where the model has not exactly one input.
    """
    if isinstance(frame, Mapping):
        return [encode(_array(value, specs.get(name)), name) for name, value in frame.items()]
    if specs and len(specs) != 1:
        raise ValueError(f"the model has {len(specs)} inputs: give a dict with {', '.join(specs)}")
    return [encode(_array(frame, next(iter(specs.values()), None)))]


def stack_frames(frames: list[Frame], specs: Mapping[str, TensorSpec]) -> Frame:
    """Consecutive timesteps with a leading axis T, for one message."""
    first = frames[0]
    if isinstance(first, Mapping):
        columns: Iterable[str] = first
        return {name: _stack([frame[name] for frame in frames], specs.get(name)) for name in columns}  # type: ignore[index,call-overload]
    return _stack(frames, next(iter(specs.values()), None))


def _stack(values: list[Any], spec: TensorSpec | None) -> Array:
    return np.stack([_array(value, spec) for value in values])


def _array(value: ArrayLike, spec: TensorSpec | None) -> Array:
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(value, dtype=spec.dtype if spec is not None else None)
