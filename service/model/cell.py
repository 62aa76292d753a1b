"""The cell: the pure function (inputs, state) -> (outputs, next state) of one model, for many sessions at once.

Knows ONNX Runtime and the layout of tensors. Must not know sessions, steps or the store: state comes with the
work and leaves with the result. A session's state is one row of bytes, its tensors one after another.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np
import onnxruntime

from service.errors import CellwireError, ModelFailed, NonFinite
from service.model.layout import Array, Layout, Slot, slots_of, widen
from service.values import CellResult, CellWork, ModelSpec, Row

WARM_RUNS = 5
WARM_SECONDS = 0.2


class Cell:
    """One version of a model, ready to run; `run` is called from one thread at a time."""

    def __init__(self, spec: ModelSpec, session: onnxruntime.InferenceSession) -> None:
        self.spec = spec
        self._session = session
        self._inputs = [(each, Layout(each, spec.time_axis)) for each in spec.inputs]
        self._constants = [(each, Layout(each, None)) for each in spec.constants]
        self._outputs = [Layout(each, spec.time_axis) for each in (*spec.outputs, *spec.gates)]
        slots = slots_of(spec.state)
        self._slots = [slot for slot in slots if slot.spec.output is not None]
        self._windows = {slot.spec.carried_input: slot for slot in slots if slot.spec.carried_input is not None}
        self._fixed = {each.name: each.value for each in spec.fixed}
        self._answers = [*self._outputs, *(slot.layout for slot in self._slots)]
        self._names = [each.spec.name for each in self._outputs] + [str(s.spec.output) for s in self._slots]
        self._width = spec.state_bytes
        self._seconds: list[float] = []

    def limited(self, max_batch: int) -> "Cell":
        """The same cell with at most so many sessions a call."""
        return Cell(replace(self.spec, max_batch=max_batch), self._session)

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

    def _gather(self, work: Sequence[CellWork]) -> tuple[dict[str, Array], list[tuple[Slot, Array]]]:
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
                rows, tail = widen(spec, slot.read(states), rows, timesteps)
                tails.append((slot, tail))
            feeds[spec.name] = layout.to_graph(rows)
        for at, (spec, layout) in enumerate(self._constants):
            joined = b"".join([each.constants[at] for each in work])
            feeds[spec.name] = layout.to_graph(np.frombuffer(joined, spec.dtype).reshape(count, *spec.shape))
        return feeds, tails

    def _scatter(
        self, arrays: Sequence[Array], tails: Sequence[tuple[Slot, Array]], work: Sequence[CellWork]
    ) -> list[CellResult | CellwireError]:
        """The results of one call, each with bytes of its own."""
        count, timesteps, width = len(work), len(work[0].rows), self._width
        answers = [layout.to_rows(array) for layout, array in zip(self._answers, arrays, strict=True)]
        for layout, rows in zip(self._answers, answers, strict=True):
            # a graph that answers in another shape or dtype than declared has failed; its bytes mean nothing
            if rows.shape != layout.shape(count, timesteps) or rows.dtype != layout.dtype:
                return self._alone(work)
        outputs, nexts = answers[: len(self._outputs)], answers[len(self._outputs) :]
        state = self._joined(nexts, tails, count)
        columns = [_cut(rows, layout.nbytes) for rows, layout in zip(outputs, self._outputs, strict=True)]
        replies = list(zip(*columns, strict=True))
        spans: list[tuple[Row, ...]] = [(reply,) for reply in replies]
        if timesteps > 1:
            spans = [tuple(replies[at : at + timesteps]) for at in range(0, len(replies), timesteps)]
        results: list[CellResult | CellwireError] = [
            CellResult(state[at * width : (at + 1) * width], span) for at, span in enumerate(spans)
        ]
        for at in _poisoned([*answers, *(tail for _, tail in tails)]):
            results[at] = NonFinite("the model gave a number that is not finite")
        return results

    def _joined(self, nexts: Sequence[Array], tails: Sequence[tuple[Slot, Array]], count: int) -> bytes:
        """The next states, one row after another."""
        if len(nexts) == 1 and not tails:
            return nexts[0].tobytes()
        states = np.empty((count, self._width), np.uint8)
        for slot, array in [*zip(self._slots, nexts, strict=True), *tails]:
            states[:, slot.start : slot.stop] = np.ascontiguousarray(array).reshape(count, -1).view(np.uint8)
        return states.tobytes()

    def seconds(self, batch: int) -> float:
        """How long a call of `batch` sessions should take; infinite before `warm`."""
        if not self._seconds:
            return math.inf
        return self._seconds[min(batch, len(self._seconds)) - 1]

    def warm(self) -> None:
        """Run at batch 1, 2, 4 and up to the largest, so that none is the first, and learn how long each takes."""
        row = tuple(np.full(each.shape, each.low or 0, each.dtype).tobytes() for each in self.spec.inputs)
        constants = tuple(np.full(each.shape, each.low or 0, each.dtype).tobytes() for each in self.spec.constants)
        work = CellWork(self.spec.initial_state, (row,), constants)
        sizes = [1 << power for power in range(self.spec.max_batch.bit_length())]
        if sizes[-1] != self.spec.max_batch:
            sizes.append(self.spec.max_batch)
        times = [self._time([work] * size) for size in sizes]
        self._seconds = np.interp(np.arange(1, sizes[-1] + 1), sizes, times).tolist()

    def _time(self, work: Sequence[CellWork]) -> float:
        """The median of a few runs, fewer where they are slow; the first one does not count."""
        self.run(work)
        times: list[float] = []
        while len(times) < WARM_RUNS and sum(times) < WARM_SECONDS:
            start = perf_counter()
            self.run(work)
            times.append(perf_counter() - start)
        return sorted(times)[len(times) // 2]


def _cut(rows: Array, size: int) -> list[bytes]:
    joined = rows.tobytes()
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def _poisoned(arrays: Sequence[Array]) -> set[int]:
    """The sessions with a number that is not finite in any of the arrays [B, ..]."""
    found: set[int] = set()
    for array in arrays:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
            found.update(int(at) for at in np.flatnonzero(~finite))
    return found
