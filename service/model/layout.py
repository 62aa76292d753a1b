"""Where the numbers of many sessions lie: in rows of bytes, and in the graph's own axes.

Knows shapes, batch and time axes and carry windows; runs nothing. No Python loop ever goes over numbers here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from service.values import InputSpec, StateSpec, TensorSpec

Array = np.ndarray


class Layout:
    """Between the rows of sessions [B, (T,) *shape] and the graph's own axes of one tensor."""

    def __init__(self, spec: TensorSpec, time_axis: int | None) -> None:
        self.spec = spec
        self.dtype, self.nbytes = spec.dtype, spec.nbytes
        self.timed = time_axis is not None
        rank = len(spec.shape) + self.timed + (spec.batch_axis is not None)
        rows = iter(range(1 + self.timed, 1 + self.timed + len(spec.shape)))
        # which axis of the rows stands at each axis of the graph
        order = [0 if a == spec.batch_axis else 1 if a == time_axis else next(rows) for a in range(rank)]
        self.batched = spec.batch_axis is not None
        if not self.batched:
            order.insert(0, 0)
        self.into = None if order == sorted(order) else order
        self.back = [order.index(axis) for axis in range(len(order))]

    def to_graph(self, rows: Array) -> Array:
        """C-contiguous, in the graph's axes."""
        if self.into is not None:
            rows = rows.transpose(self.into)
        if not self.batched:
            rows = rows[0]
        return np.ascontiguousarray(rows)

    def to_rows(self, array: Array) -> Array:
        """The graph's array as [B, (T,) *shape], perhaps a view."""
        if not self.batched:
            array = array[np.newaxis]
        return array if self.into is None else array.transpose(self.back)

    def shape(self, sessions: int, timesteps: int) -> tuple[int, ...]:
        """What the graph's array must have as rows."""
        return (sessions, timesteps, *self.spec.shape) if self.timed else (sessions, *self.spec.shape)


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of the state and its columns in the row."""

    spec: StateSpec
    layout: Layout
    start: int
    stop: int

    def read(self, rows: Array) -> Array:
        """This tensor of [B, state bytes], as [B, *shape]."""
        columns = rows[:, self.start : self.stop]
        if self.start % self.spec.dtype.itemsize:
            columns = np.array(columns)  # ONNX Runtime wants its numbers aligned
        return columns.view(self.spec.dtype).reshape(len(rows), *self.spec.shape)


def slots_of(specs: Sequence[StateSpec]) -> list[Slot]:
    """The tensors of a state in the order in which they lie in its row."""
    slots, start = [], 0
    for spec in specs:
        slots.append(Slot(spec, Layout(spec, None), start, start + spec.nbytes))
        start += spec.nbytes
    return slots


def widen(spec: InputSpec, carried: Array, rows: Array, timesteps: int) -> tuple[Array, Array]:
    """The rows with the carry window before each timestep, and the window for the next call."""
    if rows.ndim == carried.ndim:
        wide = np.concatenate((carried, rows), axis=-1)
        return wide, wide[..., -spec.carry :]
    # [B, T, .., L]: lay the timesteps end to end, then cut a window that reaches back for each
    line = np.moveaxis(rows, 1, -2).reshape(*carried.shape[:-1], -1)
    line = np.concatenate((carried, line), axis=-1)
    windows = sliding_window_view(line, spec.carry + spec.shape[-1], axis=-1)[..., :: spec.shape[-1], :]
    return np.moveaxis(windows, -2, 1), line[..., -spec.carry :]
