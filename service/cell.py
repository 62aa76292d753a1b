"""The cell: the pure function (inputs, state) -> (outputs, next state) of one model, for many sessions at once.

Knows ONNX Runtime and the layout of tensors. Must not know sessions, steps or the store: state comes with the
work and leaves with the result. A session's state is one row of bytes, its tensors one after another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view

from service.errors import CellwireError, ModelFailed, NonFinite
from service.values import CellResult, CellWork, InputSpec, ModelSpec, StateSpec, TensorSpec

Array = np.ndarray

WARM_RUNS = 5
WARM_SECONDS = 0.2


class _Layout:
    """Between the rows of sessions [B, (T,) *shape] and the graph's own axes of one tensor."""

    def __init__(self, spec: TensorSpec, time_axis: int | None) -> None:
        self.spec = spec
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
class _Slot:
    """A tensor of the state and its columns in the row."""

    spec: StateSpec
    layout: _Layout
    start: int
    stop: int

    def read(self, rows: Array) -> Array:
        """This tensor of [B, state bytes], as [B, *shape]."""
        columns = rows[:, self.start : self.stop]
        if self.start % self.spec.dtype.itemsize:
            columns = np.array(columns)  # ONNX Runtime wants its numbers aligned
        return columns.view(self.spec.dtype).reshape(len(rows), *self.spec.shape)


class Cell:
    """One version of a model, ready to run; `run` is called from one thread at a time."""

    def __init__(self, spec: ModelSpec, session: onnxruntime.InferenceSession) -> None:
        self.spec = spec
        self._session = session
        self._inputs = [(each, _Layout(each, spec.time_axis)) for each in spec.inputs]
        self._constants = [(each, _Layout(each, None)) for each in spec.constants]
        self._outputs = [_Layout(each, spec.time_axis) for each in (*spec.outputs, *spec.gates)]
        slots = _slots(spec.state)
        self._slots = [slot for slot in slots if slot.spec.output is not None]
        self._windows = {slot.spec.carried_input: slot for slot in slots if slot.spec.carried_input is not None}
        self._fixed = {each.name: each.value for each in spec.fixed}
        self._names = [each.spec.name for each in self._outputs] + [str(s.spec.output) for s in self._slots]
        self._profile: list[tuple[int, float]] = []

    def run(self, work: Sequence[CellWork]) -> list[CellResult | CellwireError]:
        """One timestep of each session, or T where the graph has a time axis; results in the order of `work`.

        A session whose numbers are not finite gets NonFinite, one that the graph fails on gets ModelFailed;
        the others are not touched by it.
        """
        if len(work) <= self.spec.max_batch and self.spec.time_axis is None:
            return self._together(work)
        results: list[CellResult | CellwireError | None] = [None] * len(work)
        for places in self._calls(work):
            for place, result in zip(places, self._together([work[p] for p in places]), strict=True):
                results[place] = result
        return [result for result in results if result is not None]

    def _calls(self, work: Sequence[CellWork]) -> list[list[int]]:
        """Which of `work` go into one call: as many timesteps each, no more than the graph takes."""
        lengths: dict[int, list[int]] = {}
        for place, each in enumerate(work):
            lengths.setdefault(len(each.rows), []).append(place)
        size = self.spec.max_batch
        return [same[at : at + size] for same in lengths.values() for at in range(0, len(same), size)]

    def _together(self, work: Sequence[CellWork]) -> list[CellResult | CellwireError]:
        feeds, tails = self._gather(work)
        try:
            arrays = self._session.run(self._names, feeds)
        except Exception:  # ONNX Runtime's exceptions have no common class
            return self._alone(work)
        return self._scatter(arrays, tails, work)

    def _alone(self, work: Sequence[CellWork]) -> list[CellResult | CellwireError]:
        """After a failed call: each by itself once, so that only the one that fails it is refused."""
        if len(work) == 1:
            return [ModelFailed("the model failed on this timestep")]
        return [self._together([each])[0] for each in work]

    def answer(self, work: Sequence[CellWork]) -> dict[str, Array]:
        """What the graph itself answers, by output name; raises what ONNX Runtime raises. For proofs only."""
        feeds, _ = self._gather(work)
        return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))

    def _gather(self, work: Sequence[CellWork]) -> tuple[dict[str, Array], list[tuple[_Slot, Array]]]:
        """The feeds of one call, and the next value of each carry window."""
        feeds = dict(self._fixed)
        count, timesteps = len(work), len(work[0].rows)
        states = np.frombuffer(b"".join([each.state for each in work]), np.uint8).reshape(count, -1)
        for slot in self._slots:
            feeds[slot.spec.name] = slot.layout.to_graph(slot.read(states))
        tails = []
        for at, (spec, layout) in enumerate(self._inputs):
            joined = b"".join([row[at] for each in work for row in each.rows])
            rows = np.frombuffer(joined, spec.dtype).reshape(layout.shape(count, timesteps))
            if spec.carry:
                slot = self._windows[spec.name]
                rows, tail = _widen(spec, slot.read(states), rows, timesteps)
                tails.append((slot, tail))
            feeds[spec.name] = layout.to_graph(rows)
        for at, (spec, layout) in enumerate(self._constants):
            joined = b"".join([each.constants[at] for each in work])
            feeds[spec.name] = layout.to_graph(np.frombuffer(joined, spec.dtype).reshape(count, *spec.shape))
        return feeds, tails

    def _scatter(
        self, arrays: Sequence[Array], tails: Sequence[tuple[_Slot, Array]], work: Sequence[CellWork]
    ) -> list[CellResult | CellwireError]:
        """The results of one call, each with bytes of its own."""
        count, timesteps, width = len(work), len(work[0].rows), self.spec.state_bytes
        split = len(self._outputs)
        outputs = [layout.to_rows(array) for layout, array in zip(self._outputs, arrays, strict=False)]
        nexts = [(s, s.layout.to_rows(array)) for s, array in zip(self._slots, arrays[split:], strict=True)]
        # a graph that answers in another shape or dtype than declared has failed; its bytes mean nothing
        if not self._declared(outputs, nexts, count, timesteps):
            return self._alone(work)
        nexts += tails
        poisoned = _poisoned([*outputs, *(array for _, array in nexts)])
        states = np.empty((count, width), np.uint8)
        for slot, array in nexts:
            flat = np.ascontiguousarray(array).reshape(count, -1)
            states[:, slot.start : slot.stop] = flat.view(np.uint8)
        state = states.tobytes()
        columns = [
            _cut(rows, count * timesteps, layout.spec.nbytes)
            for rows, layout in zip(outputs, self._outputs, strict=True)
        ]
        replies = list(zip(*columns, strict=True))
        results: list[CellResult | CellwireError] = [
            CellResult(state[at * width : (at + 1) * width], tuple(replies[at * timesteps : (at + 1) * timesteps]))
            for at in range(count)
        ]
        for at in poisoned:
            results[at] = NonFinite("the model gave a number that is not finite")
        return results

    def _declared(
        self, outputs: Sequence[Array], nexts: Sequence[tuple[_Slot, Array]], count: int, timesteps: int
    ) -> bool:
        return all(
            rows.shape == layout.shape(count, timesteps) and rows.dtype == layout.spec.dtype
            for rows, layout in zip(outputs, self._outputs, strict=True)
        ) and all(rows.shape == (count, *slot.spec.shape) and rows.dtype == slot.spec.dtype for slot, rows in nexts)

    def seconds(self, batch: int) -> float:
        """How long a call of `batch` sessions should take; infinite before `warm`."""
        if not self._profile:
            return math.inf
        sizes, times = zip(*self._profile, strict=True)
        return float(np.interp(batch, sizes, times))

    def warm(self) -> None:
        """Run at batch 1, 2, 4 and up to the largest, so that none is the first, and learn how long each takes."""
        row = tuple(np.full(each.shape, each.low or 0, each.dtype).tobytes() for each in self.spec.inputs)
        constants = tuple(np.full(each.shape, each.low or 0, each.dtype).tobytes() for each in self.spec.constants)
        work = CellWork(self.spec.initial_state, (row,), constants)
        sizes = [1 << power for power in range(self.spec.max_batch.bit_length())]
        if sizes[-1] != self.spec.max_batch:
            sizes.append(self.spec.max_batch)
        self._profile = [(size, self._time([work] * size)) for size in sizes]

    def _time(self, work: Sequence[CellWork]) -> float:
        """The median of a few runs, fewer where they are slow; the first one does not count."""
        self.run(work)
        times: list[float] = []
        while len(times) < WARM_RUNS and sum(times) < WARM_SECONDS:
            start = perf_counter()
            self.run(work)
            times.append(perf_counter() - start)
        return sorted(times)[len(times) // 2]


def _slots(specs: Sequence[StateSpec]) -> list[_Slot]:
    slots, start = [], 0
    for spec in specs:
        slots.append(_Slot(spec, _Layout(spec, None), start, start + spec.nbytes))
        start += spec.nbytes
    return slots


def _widen(spec: InputSpec, carried: Array, rows: Array, timesteps: int) -> tuple[Array, Array]:
    """The rows with the carry window before each timestep, and the window for the next call."""
    if rows.ndim == carried.ndim:
        wide = np.concatenate((carried, rows), axis=-1)
        return wide, wide[..., -spec.carry :]
    # [B, T, .., L]: lay the timesteps end to end, then cut a window that reaches back for each
    line = np.moveaxis(rows, 1, -2).reshape(*carried.shape[:-1], -1)
    line = np.concatenate((carried, line), axis=-1)
    windows = sliding_window_view(line, spec.carry + spec.shape[-1], axis=-1)[..., :: spec.shape[-1], :]
    return np.moveaxis(windows, -2, 1), line[..., -spec.carry :]


def _cut(rows: Array, count: int, size: int) -> list[bytes]:
    joined = rows.tobytes()
    return [joined[at * size : (at + 1) * size] for at in range(count)]


def _poisoned(arrays: Sequence[Array]) -> set[int]:
    """The sessions with a number that is not finite in any of the arrays [B, ..]."""
    found: set[int] = set()
    for array in arrays:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
            found.update(int(at) for at in np.flatnonzero(~finite))
    return found
