"""Timesteps and replies of many sessions in columns <-> values: every check on what a gateway sends.

Knows the message types and the ModelSpec; knows neither handles nor sessions. What is wrong with a message as a whole
is raised; what is wrong with one row stands in its place, and the other rows can be trusted.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from math import inf

from cellwire.v1 import cell_service_pb2 as pb
from service.codec import Reply, decode_timeout
from service.errors import InvalidInput
from service.tensors import WIRE_TYPES, OutputsEncoder, check_values, invalid
from service.values import MAX_STEP, InputSpec, ModelSpec, Timestep, maker


def decode_columns(
    message: pb.TimestepColumns, spec: ModelSpec, max_timesteps: int, received: float
) -> list[Timestep | InvalidInput]:
    """For each handle its checked Timestep of this model, or what is wrong with its row; whether a step has to be 0 its
    session knows. Their timeout counts from `received`, a monotonic time.

    Raises:
        InvalidInput: the columns do not fit the handles or the model.
    """
    count, timesteps = len(message.handles), message.timesteps
    if len(message.steps) != count:
        raise invalid("steps", f"one a handle: {count}, {len(message.steps)} given")
    if timesteps > max_timesteps:
        raise invalid("timesteps", f"at most {max_timesteps}")
    deadline = received + decode_timeout("timeout", message.timeout) if message.HasField("timeout") else inf
    if len(message.inputs) != len(spec.inputs):
        names = ", ".join(tensor.name for tensor in spec.inputs)
        raise invalid("inputs", f"{len(spec.inputs)} columns ({names}), {len(message.inputs)} given")
    columns = [_checked(*each, count, timesteps) for each in zip(spec.inputs, message.inputs, strict=True)]
    rows = zip(*map(_cut, spec.inputs, columns), strict=True)
    spans = zip(*[rows] * max(1, timesteps), strict=True)  # of one iterator with itself: groups of T
    fields = zip(message.steps, repeat(timesteps), spans, repeat(deadline), repeat(message.priority), strict=False)
    decoded: list[Timestep | InvalidInput] = [*map(maker(Timestep), fields)]
    for tensor, column in zip(spec.inputs, columns, strict=True):
        for at, fault in _faults(tensor, column, count):
            decoded[at] = fault
    last = MAX_STEP - timesteps
    if max(message.steps) > last:
        for at, step in enumerate(message.steps):
            if step > last:
                decoded[at] = invalid("step", f"at most {last}")
    return decoded


def _cut(spec: InputSpec, column: bytes) -> list[bytes]:
    """The bytes of each timestep."""
    size = spec.nbytes
    return [column[at : at + size] for at in range(0, len(column), size)]


def _checked(spec: InputSpec, column: pb.Column, count: int, timesteps: int) -> bytes:
    """The raw bytes of a column whose dtype, shape and length are those of its spec."""
    if column.dtype != WIRE_TYPES[spec.dtype]:
        raise invalid(f"inputs.{spec.name}.dtype", f"DATA_TYPE_{spec.dtype.name.upper()}")
    expected = (count, timesteps, *spec.shape) if timesteps else (count, *spec.shape)
    if tuple(column.shape) != expected:
        raise invalid(f"inputs.{spec.name}.shape", f"{list(expected)}, its first axis the handles")
    size, data = count * (timesteps or 1) * spec.nbytes, column.data
    if len(data) != size:
        raise invalid(f"inputs.{spec.name}.data", f"{size} bytes, {len(data)} given")
    return data


def _faults(spec: InputSpec, column: bytes, count: int) -> Iterator[tuple[int, InvalidInput]]:
    """The rows with numbers that the model does not take. A column is looked at as a whole, and row by row only if
    there is one."""
    try:
        check_values("inputs", spec, column)
    except InvalidInput:
        size = len(column) // count
        for at in range(count):
            try:
                check_values("inputs", spec, column[at * size : (at + 1) * size])
            except InvalidInput as fault:
                yield at, fault


def encode_columns(
    encoder: OutputsEncoder, timesteps: int, handles: Sequence[int], replies: Sequence[Reply]
) -> pb.ReplyColumns:
    """Replies of one selection of outputs and number of timesteps, a row for each; this encoder made their outputs."""
    steps, digests, epochs, durable_steps, _, outputs, replayed, degraded = zip(*replies, strict=True)
    columns = pb.ReplyColumns(
        handles=handles,
        steps=steps,
        h=b"".join(digests),
        epochs=epochs,
        durable_steps=durable_steps,
        replayed=replayed if True in replayed else (),
        degraded=degraded if True in degraded else (),
        timesteps=timesteps,
    )
    leading = (len(handles), timesteps) if timesteps else (len(handles),)
    for tensor, column in zip(encoder.tensors, encoder.data(timesteps, outputs), strict=True):
        columns.outputs.add(dtype=WIRE_TYPES[tensor.dtype], shape=(*leading, *tensor.shape), data=column)
    return columns
