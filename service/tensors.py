"""Tensors on the wire: every check on what a client sends, and the serialized outputs of a reply.

Knows the message types of tensors and the ModelSpec. What `decode_tensors` returns can be trusted: it has the dtype,
the shape, the length and the range that the model declares.
"""

from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError

from cellwire.v1 import tensor_pb2
from service.errors import InvalidInput, StateCorrupt
from service.values import InputSpec, ModelSpec, Row, TensorSpec

DTYPES: dict[int, np.dtype] = {
    tensor_pb2.DATA_TYPE_BOOL: np.dtype(np.bool_),
    tensor_pb2.DATA_TYPE_UINT8: np.dtype(np.uint8),
    tensor_pb2.DATA_TYPE_INT8: np.dtype(np.int8),
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
WIRE_TYPES: dict[np.dtype, tensor_pb2.DataType] = {dtype: number for number, dtype in DTYPES.items()}  # type: ignore[misc]

MAX_NAME = 128
"""Characters of a client's own name that it is told back."""


def invalid(field: str, expected: str) -> InvalidInput:
    """The error for a field that is not what was expected."""
    return InvalidInput(f"{field}: {expected}", fields=((field, expected),))


def decode_tensors(
    field: str, specs: Sequence[InputSpec], tensors: Sequence[tensor_pb2.Tensor], timesteps: int
) -> tuple[Row, ...]:
    """One Row a timestep: each tensor checked against its spec."""
    if len(tensors) == 1 == len(specs) and (only := tensors[0]).name in ("", specs[0].name):
        columns = [_checked(field, specs[0], only, timesteps)]
    else:
        ordered = _in_order(field, specs, tensors)
        columns = [_checked(field, spec, tensor, timesteps) for spec, tensor in zip(specs, ordered, strict=True)]
    if timesteps == 0:
        return (tuple(columns),)
    return tuple(
        tuple(column[at * spec.nbytes : (at + 1) * spec.nbytes] for spec, column in zip(specs, columns, strict=True))
        for at in range(timesteps)
    )


def _in_order(field: str, specs: Sequence[InputSpec], tensors: Sequence[tensor_pb2.Tensor]) -> list[tensor_pb2.Tensor]:
    names = [spec.name for spec in specs]
    if not any(tensor.name for tensor in tensors):
        if len(tensors) != len(specs):
            raise invalid(field, f"{len(specs)} tensors ({', '.join(names)}), {len(tensors)} given")
        return list(tensors)
    by_name: dict[str, tensor_pb2.Tensor] = {}
    for tensor in tensors:
        if tensor.name not in names:
            where = f"{field}.{tensor.name[:MAX_NAME]}" if tensor.name else field
            raise invalid(where, f"tensors named {', '.join(names) or 'none'}, all of them by name or none")
        if tensor.name in by_name:
            raise invalid(f"{field}.{tensor.name}", "once")
        by_name[tensor.name] = tensor
    for name in names:
        if name not in by_name:
            raise invalid(f"{field}.{name}", "a tensor; it is missing")
    return [by_name[name] for name in names]


def _checked(field: str, spec: InputSpec, tensor: tensor_pb2.Tensor, timesteps: int) -> bytes:
    """The raw bytes of a tensor that is what its spec says."""
    # compared by number: of an unknown one there is no dtype, and NumPy takes None for float64
    dtype = spec.dtype
    if tensor.dtype != WIRE_TYPES[dtype]:
        raise invalid(f"{field}.{spec.name}.dtype", f"DATA_TYPE_{dtype.name.upper()}")
    expected = [timesteps, *spec.shape] if timesteps else [*spec.shape]
    if tensor.shape != expected:  # a copy of it costs twice as much as this
        raise invalid(f"{field}.{spec.name}.shape", f"{expected}{'' if timesteps else ' without a batch axis'}")
    data = tensor.data
    size = (timesteps or 1) * spec.nbytes
    if len(data) != size:
        raise invalid(f"{field}.{spec.name}.data", f"{size} bytes, {len(data)} given")
    check_values(field, spec, data)
    return data


def check_values(field: str, spec: InputSpec, data: bytes) -> None:
    """Refuses numbers that the input does not take; `data` are whole elements of its dtype, of any number of timesteps.

    Raises:
        InvalidInput: not finite, no boolean, or out of the declared range.
    """
    dtype = spec.dtype
    if dtype.kind == "f":
        last_bytes = data[dtype.itemsize - 1 :: dtype.itemsize]
        if dtype.itemsize >= 4 and 0x7F not in last_bytes and 0xFF not in last_bytes:
            return  # an exponent of all ones fills the last byte but for its sign: this asks a third of what follows
        # bytes of 0 and 1: to search them costs half of what all() does
        if b"\0" in np.isfinite(np.frombuffer(data, dtype)).tobytes():
            raise invalid(f"{field}.{spec.name}.data", "finite numbers")
    elif dtype.kind == "b":
        if np.frombuffer(data, np.uint8).max(initial=0) > 1:
            raise invalid(f"{field}.{spec.name}.data", "booleans of 0 or 1")
    elif spec.low is not None or spec.high is not None:
        values = np.frombuffer(data, dtype)
        low = spec.low if spec.low is not None else np.iinfo(dtype).min
        high = spec.high if spec.high is not None else np.iinfo(dtype).max
        if values.min() < low or values.max() > high:
            raise invalid(f"{field}.{spec.name}.data", f"integers from {low} to {high}")


_SHORT_VARINTS = [bytes((value,)) for value in range(0x80)]


def varint(value: int) -> bytes:
    """Protobuf's base-128 form of a length or a tag."""
    if value < len(_SHORT_VARINTS):
        return _SHORT_VARINTS[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(field: int) -> bytes:
    """What stands before a length-delimited field."""
    return varint(field << 3 | 2)


_TENSOR_IN_OUTPUTS = tag(tensor_pb2.Outputs.TENSORS_FIELD_NUMBER)
_DATA_IN_TENSOR = tag(tensor_pb2.Tensor.DATA_FIELD_NUMBER)


class OutputsEncoder:
    """Makes the serialized Outputs of one selection of a model's outputs: all but the numbers is written once."""

    def __init__(self, spec: ModelSpec, names: Sequence[str]) -> None:
        every = [*spec.outputs, *spec.gates]
        self._chosen = [(at, tensor) for at, tensor in enumerate(every) if tensor.name in names]
        self._places = [at for at, _ in self._chosen]
        self._heads = {0: self._head(0)}

    def __call__(self, timesteps: int, rows: Sequence[Row]) -> bytes:
        """`rows` holds the outputs and gates of each timestep; `timesteps` as in values.Timestep."""
        parts = []
        for head, at in zip(self._heads.get(timesteps) or self._heads_of(timesteps), self._places, strict=True):
            parts.append(head)
            for row in rows:
                parts.append(row[at])  # noqa: PERF401  mostly one: a list for it costs more
        return b"".join(parts)

    @property
    def tensors(self) -> list[TensorSpec]:
        """The selection, in the order in which it is sent."""
        return [tensor for _, tensor in self._chosen]

    def data(self, timesteps: int, outputs: Sequence[bytes]) -> list[bytes]:
        """For each tensor its raw bytes in all of these, which this encoder made, one behind the other.

        They are cut out, because nothing but the numbers differs between the outputs of two sessions.
        """
        table = np.frombuffer(b"".join(outputs), np.uint8).reshape(len(outputs), -1)
        columns, at = [], 0
        for tensor, head in zip(self.tensors, self._heads_of(timesteps), strict=True):
            at += len(head)
            end = at + tensor.nbytes * max(1, timesteps)
            columns.append(table[:, at:end].tobytes())
            at = end
        return columns

    def again(self, timesteps: int, outputs: bytes) -> bytes:
        """The same outputs as this encoder makes them, whichever release did.

        Raises:
            StateCorrupt: they are not of this selection of the model's tensors.
        """
        try:
            stored = [tensor.data for tensor in tensor_pb2.Outputs.FromString(outputs).tensors]
        except DecodeError:
            stored = []
        if [len(data) for data in stored] != [tensor.nbytes * max(1, timesteps) for tensor in self.tensors]:
            raise StateCorrupt("a stored reply is not one of this model")
        heads = self._heads_of(timesteps)
        return b"".join(part for pair in zip(heads, stored, strict=True) for part in pair)

    def _heads_of(self, timesteps: int) -> list[bytes]:
        heads = self._heads.get(timesteps)
        if heads is None:
            heads = self._heads[timesteps] = self._head(timesteps)
        return heads

    def _head(self, timesteps: int) -> list[bytes]:
        """What stands before the data of each tensor; protobuf's form, so that no message is built a timestep."""
        heads = []
        for _, tensor in self._chosen:
            shape = (timesteps, *tensor.shape) if timesteps else tensor.shape
            data_bytes = tensor.nbytes * max(1, timesteps)
            message = tensor_pb2.Tensor(name=tensor.name, dtype=WIRE_TYPES[tensor.dtype], shape=shape)
            head = message.SerializeToString() + _DATA_IN_TENSOR + varint(data_bytes)
            heads.append(_TENSOR_IN_OUTPUTS + varint(len(head) + data_bytes) + head)
        return heads


def tensor_spec(spec: TensorSpec) -> tensor_pb2.TensorSpec:
    """What a client is told of a tensor."""
    return tensor_pb2.TensorSpec(name=spec.name, dtype=WIRE_TYPES[spec.dtype], shape=spec.shape)
