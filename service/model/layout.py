"""Where the numbers of many sessions lie: in rows of bytes, and in the graph's own axes.

Knows shapes, batch and time axes and how tensors share memory; runs nothing. What it gives are views, no copies.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from service.values import StateSpec, TensorSpec

Array = np.ndarray

ALIGNMENT = 256
"""Bytes; what the kernels of a device may expect of a tensor's address, and more than those of a CPU do."""


class Layout:
    """Between the rows of sessions [B, (T,) *shape] and the graph's own axes of one tensor.

    `carry` values stand before the client's along the last axis.
    """

    def __init__(self, spec: TensorSpec, time_axis: int | None, carry: int = 0) -> None:
        self.dtype, self.nbytes = spec.dtype, spec.nbytes
        self._shape = (*spec.shape[:-1], spec.shape[-1] + carry) if carry else spec.shape
        self._timed = time_axis is not None
        self._batched = spec.batch_axis is not None
        rank = len(spec.shape) + self._timed + self._batched
        rows = iter(range(1 + self._timed, 1 + self._timed + len(spec.shape)))
        # which axis of the rows stands at each axis of the graph
        order = [0 if a == spec.batch_axis else 1 if a == time_axis else next(rows) for a in range(rank)]
        self._order = order if self._batched else [0, *order]

    def graph_shape(self, sessions: int, timesteps: int) -> tuple[int, ...]:
        """What the graph's array has."""
        rows = (sessions, timesteps, *self._shape) if self._timed else (sessions, *self._shape)
        shape = tuple(rows[axis] for axis in self._order)
        return shape if self._batched else shape[1:]

    def rows(self, array: Array) -> Array:
        """The graph's array seen as [B, (T,) *shape]."""
        if not self._batched:
            array = array[np.newaxis]
        return array.transpose([self._order.index(axis) for axis in range(len(self._order))])


class Tensors:
    """Arrays by name, each in the graph's axes, one after another in one block of memory."""

    def __init__(
        self, layouts: Mapping[str, Layout], sessions: int, timesteps: int, block: Callable[[int], Array]
    ) -> None:
        """`block` gives so many bytes [N], or more."""
        shapes = {name: layout.graph_shape(sessions, timesteps) for name, layout in layouts.items()}
        self.starts: dict[str, int] = {}
        """Where in the block each array begins."""
        size = 0
        for name, layout in layouts.items():
            self.starts[name] = size
            size += -(-prod(shapes[name]) * layout.dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.block = block(size)
        self.arrays = {
            name: np.ndarray(shapes[name], layout.dtype, self.block, self.starts[name])
            for name, layout in layouts.items()
        }
        self._layouts = layouts

    def rows(self, name: str) -> Array:
        """One of them seen as the rows of sessions."""
        return self._layouts[name].rows(self.arrays[name])


def state_row(specs: Sequence[StateSpec]) -> np.dtype:
    """The tensors of a state one after another without gaps: fields named f0, f1 and so on."""
    return np.dtype([("", spec.dtype, spec.shape) for spec in specs])


def raw(array: Array) -> Array:
    """The bytes [N] of a C-contiguous array, as a view."""
    return array.reshape(-1).view(np.uint8)
