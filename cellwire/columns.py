"""Messages of many sessions <-> columns. Nothing here knows a stream or a session.

Of one handle there is at most one row in columns, and its rows keep their order from columns to columns.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import tensor_pb2

_DIGEST_BYTES = 16
_ROW_BYTES = 64
"""What a row or a close takes beside its data, at most."""
_Shape = tuple[int, ...]
"""The dtype of an input, and its axes without that of the handles."""


class Written(NamedTuple):
    """A message of one handle."""

    handle: int
    request: pb.StreamRequest
    step: int = 0
    """The number of a timestep when it was given: by the time that it is sent, its message may have another one."""
    model: tuple[str, str] = ("", "")
    """Name and version: what sessions share that may share columns."""
    inputs: Sequence[str] = ()
    """The order in which the model takes them."""


def pack(messages: Iterable[Written], max_bytes: int) -> Iterator[pb.StreamManyRequest]:
    """All of them, in as few as may be; one that is longer by itself is sent by itself."""
    pack = _Pack()
    for message in messages:
        size = message.request.ByteSize() + _ROW_BYTES
        if pack.bytes and pack.bytes + size > max_bytes:
            yield pack.message()
            pack = _Pack()
        pack.add(message)
        pack.bytes += size
    if pack.bytes:
        yield pack.message()


class _Rows:
    """Timesteps that share columns."""

    def __init__(self, like: pb.Timestep, shapes: Sequence[_Shape]) -> None:
        self._like = like
        self._shapes = shapes
        self.handles: list[int] = []
        self.steps: list[int] = []
        self.data: list[list[bytes]] = [[] for _ in shapes]
        """Of each input, one a handle."""

    def message(self) -> pb.TimestepColumns:
        like = self._like
        columns = pb.TimestepColumns(
            handles=self.handles, steps=self.steps, timesteps=like.timesteps, priority=like.priority
        )
        if like.HasField("timeout"):
            columns.timeout.CopyFrom(like.timeout)
        for (dtype, *shape), data in zip(self._shapes, self.data, strict=True):
            columns.inputs.add(dtype=dtype, shape=(len(self.handles), *shape), data=b"".join(data))
        return columns


class _Pack:
    """One message in the making."""

    def __init__(self) -> None:
        self.bytes = 0
        self._message = pb.StreamManyRequest()
        self._rows: list[_Rows] = []
        self._newest: dict[object, int] = {}
        """The place of the last rows of a kind."""
        self._last: dict[int, int] = {}
        """The place of the last row of each handle."""

    def add(self, message: Written) -> None:
        handle, request = message.handle, message.request
        match request.WhichOneof("kind"):
            case "open":
                self._message.opens.add(handle=handle, open=request.open)
            case "close":
                self._message.closes.add(handle=handle, close=request.close)
            case _:
                self._add_row(message, request.timestep)

    def message(self) -> pb.StreamManyRequest:
        self._message.timesteps.extend(rows.message() for rows in self._rows)
        return self._message

    def _add_row(self, message: Written, timestep: pb.Timestep) -> None:
        inputs = _in_order(timestep.inputs, message.inputs)
        shapes = [(tensor.dtype, *tensor.shape) for tensor in inputs]
        timeout = timestep.timeout.SerializeToString() if timestep.HasField("timeout") else None
        kind = (message.model, timestep.timesteps, timestep.priority, timeout, *shapes)
        place = self._newest.get(kind, -1)
        if place <= self._last.get(message.handle, -1):
            place = self._newest[kind] = len(self._rows)
            self._rows.append(_Rows(timestep, shapes))
        self._last[message.handle] = place
        rows = self._rows[place]
        rows.handles.append(message.handle)
        rows.steps.append(message.step)
        for data, tensor in zip(rows.data, inputs, strict=True):
            data.append(tensor.data)


def _in_order(tensors: Sequence[tensor_pb2.Tensor], names: Sequence[str]) -> Sequence[tensor_pb2.Tensor]:
    """As the model takes them. None at all if their names are others: then the service tells what it expects."""
    if not any(tensor.name for tensor in tensors):
        return tensors
    by_name = {tensor.name: tensor for tensor in tensors}
    return [by_name[name] for name in names] if sorted(names) == sorted(tensor.name for tensor in tensors) else ()


def unpack(columns: pb.ReplyColumns) -> Iterator[tuple[int, pb.Reply]]:
    """The reply to each handle, its tensors without names. ValueError for columns that do not fit the handles."""
    count = len(columns.handles)
    flags = [given or [False] * count for given in (columns.replayed, columns.degraded)]
    values = zip(columns.handles, columns.steps, columns.epochs, columns.durable_steps, *flags, strict=True)
    if len(columns.h) != _DIGEST_BYTES * count or any(list(column.shape[:1]) != [count] for column in columns.outputs):
        raise ValueError("columns that do not fit their handles")
    sizes = [len(column.data) // max(count, 1) for column in columns.outputs]
    outputs = [(each.dtype, each.shape[1:], each.data, size) for each, size in zip(columns.outputs, sizes, strict=True)]
    for at, (handle, step, epoch, durable_step, replayed, degraded) in enumerate(values):
        tensors = [
            tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data[at * size : (at + 1) * size])
            for dtype, shape, data, size in outputs
        ]
        reply = pb.Reply(
            step=step,
            h=columns.h[_DIGEST_BYTES * at : _DIGEST_BYTES * (at + 1)],
            epoch=epoch,
            durable_step=durable_step,
            replayed=replayed,
            degraded=degraded,
            timesteps=columns.timesteps,
            outputs=tensor_pb2.Outputs(tensors=tensors),
        )
        yield handle, reply
