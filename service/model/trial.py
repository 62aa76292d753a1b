"""What a proof needs to try a cell: random inputs within its ranges, and how far two results lie apart."""

import math
from collections.abc import Sequence

import numpy as np

from service.errors import CellwireError
from service.model.cell import Cell
from service.values import CellResult, CellWork, InputSpec, Row

SEED = 20261123


class Inputs:
    """Random inputs of one cell within the manifest's ranges; the same ones each time."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._random = np.random.default_rng(SEED)

    def row(self) -> Row:
        """One timestep."""
        return tuple(self._draw(spec) for spec in self._cell.spec.inputs)

    def constants(self) -> Row:
        """What a session gives once."""
        return tuple(self._draw(spec) for spec in self._cell.spec.constants)

    def _draw(self, spec: InputSpec) -> bytes:
        if spec.dtype.kind == "f":
            return self._random.standard_normal(spec.shape).astype(spec.dtype).tobytes()
        # without a range 0 and 1 are what any index into anything may be
        low = spec.low if spec.low is not None else min(0, spec.high or 0)
        high = spec.high if spec.high is not None else max(1, low)
        values = self._random.integers(low, high, spec.shape, np.uint64 if low >= 0 else np.int64, endpoint=True)
        return np.asarray(values).astype(spec.dtype).tobytes()

    def first(self, sessions: int) -> list[CellWork]:
        """The first timestep of some sessions."""
        initial = self._cell.spec.initial_state
        return [CellWork(initial, (self.row(),), self.constants()) for _ in range(sessions)]

    def travelled(self, sessions: int, steps: int) -> list[CellWork]:
        """The next timestep of sessions that have made some steps, each alone, and stand in states of their own."""
        work = self.first(sessions)
        for _ in range(steps):
            for at, each in enumerate(work):
                result = self._cell.run([each])[0]
                state = each.state if isinstance(result, CellwireError) else result.state
                work[at] = CellWork(state, (self.row(),), each.constants)
        return work


def difference(cell: Cell, one: CellResult, other: CellResult) -> float:
    """The largest |a - b| / max(1, |b|) over outputs and state; infinite where integers differ."""
    spec = cell.spec
    figure = _apart([s.dtype for s in spec.state], [s.nbytes for s in spec.state], one.state, other.state)
    outputs = (*spec.outputs, *spec.gates)
    for a, b in zip(one.rows, other.rows, strict=True):
        figure = max(
            figure,
            _apart([s.dtype for s in outputs], [s.nbytes for s in outputs], b"".join(a), b"".join(b)),
        )
    return figure


def _apart(dtypes: Sequence[np.dtype], sizes: Sequence[int], one: bytes, other: bytes) -> float:
    figure, start = 0.0, 0
    for dtype, size in zip(dtypes, sizes, strict=True):
        a, b = (np.frombuffer(raw[start : start + size], dtype) for raw in (one, other))
        start += size
        if dtype.kind != "f":
            figure = figure if np.array_equal(a, b) else math.inf
        elif size:
            wide = b.astype(np.float64)
            figure = max(figure, float((np.abs(a - wide) / np.maximum(1, np.abs(wide))).max()))
    return figure
