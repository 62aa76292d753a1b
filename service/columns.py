"""Timesteps and replies of many sessions in columns <-> values: every check on what a gateway sends.

Knows the message types and the ModelSpec; knows neither handles nor sessions. What is wrong with a message as a whole
is raised; what is wrong with the numbers of one row stands in its place, and the other rows can be trusted.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from cellwire.v1 import cell_service_pb2 as pb
from service.codec import Reply, decode_timeout
from service.errors import InvalidInput
from service.tensors import WIRE_TYPES, OutputsEncoder, check_values, invalid
from service.values import MAX_STEP, InputSpec, ModelSpec, Row, Timestep


class Columns(NamedTuple):
    """Checked columns: a message for each handle, or why it is none."""

    timesteps: int
    """As in values.Timestep, the same for all."""
    rows: list[tuple[Row, ...]]
    """Of each handle."""
    faults: dict[int, InvalidInput]
    """By place in the columns: numbers that the model does not take."""
    deadline: float
    """Monotonic time."""
    priority: int

    def message(self, at: int, step: int, unnumbered: bool) -> Timestep | InvalidInput:
        """The checked message at this place, of the step that its handle named; or why it is none."""
        if unnumbered and step:
            return invalid("step", "0 in a session opened unnumbered")
        if not unnumbered and not step:
            return invalid("step", "from 1; unnumbered is chosen at open")
        if step + self.timesteps > MAX_STEP:
            return invalid("step", f"the last one at most {MAX_STEP}")
        return self.faults.get(at) or Timestep(step, self.timesteps, self.rows[at], self.deadline, self.priority)


def decode_columns(message: pb.TimestepColumns, spec: ModelSpec, max_timesteps: int, received: float) -> Columns:
    """The checked form of TimestepColumns of this model; their timeout counts from `received`, a monotonic time.

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
    faults: dict[int, InvalidInput] = {}
    cells = []
    for tensor, column in zip(spec.inputs, message.inputs, strict=True):
        data = _checked(tensor, column, count, timesteps)
        faults |= _faults(tensor, data, count)
        cells.append([data[at : at + tensor.nbytes] for at in range(0, len(data), tensor.nbytes)])
    rows: list[Row] = list(zip(*cells, strict=True))
    if timesteps <= 1:
        return Columns(timesteps, [(row,) for row in rows], faults, deadline, message.priority)
    spans = [tuple(rows[at : at + timesteps]) for at in range(0, len(rows), timesteps)]
    return Columns(timesteps, spans, faults, deadline, message.priority)


def _checked(spec: InputSpec, column: pb.Column, count: int, timesteps: int) -> bytes:
    """The raw bytes of a column whose dtype, shape and length are those of its spec."""
    if column.dtype != WIRE_TYPES[spec.dtype]:
        raise invalid(f"inputs.{spec.name}.dtype", f"DATA_TYPE_{spec.dtype.name.upper()}")
    expected = (count, timesteps, *spec.shape) if timesteps else (count, *spec.shape)
    if tuple(column.shape) != expected:
        raise invalid(f"inputs.{spec.name}.shape", f"{list(expected)}, its first axis the handles")
    size = count * (timesteps or 1) * spec.nbytes
    if len(column.data) != size:
        raise invalid(f"inputs.{spec.name}.data", f"{size} bytes, {len(column.data)} given")
    return column.data


def _faults(spec: InputSpec, data: bytes, count: int) -> dict[int, InvalidInput]:
    """What is wrong with the numbers of a column: looked at as a whole, row by row only if something is."""
    faults: dict[int, InvalidInput] = {}
    try:
        check_values("inputs", spec, data)
    except InvalidInput:
        size = len(data) // count
        for at in range(count):
            try:
                check_values("inputs", spec, data[at * size : (at + 1) * size])
            except InvalidInput as fault:
                faults[at] = fault
    return faults


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
