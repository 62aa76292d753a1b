"""The cell: the pure function (inputs, state) -> (outputs, next state) of one model, for many sessions at once.

Knows ONNX Runtime and how work is parted into calls. Must not know sessions, steps or the store: state comes with the
work and leaves with the result. A session's state is one row of bytes, its tensors one after another.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from time import perf_counter

import numpy as np
import onnxruntime

from service.errors import CellwireError, ModelFailed
from service.model.call import Call
from service.model.device import Host, where
from service.model.layout import Array
from service.values import CellResult, CellWork, ModelSpec

WARM_RUNS = 5
WARM_SECONDS = 0.2
CALLS_KEPT = 256
"""Sizes of calls whose views and bindings are kept, a few KB each; their memory is shared."""


class Cell:
    """One version of a model, ready to run; `run` is called from one thread at a time, its calls share their memory."""

    def __init__(self, spec: ModelSpec, session: onnxruntime.InferenceSession, host: Host | None = None) -> None:
        """`host` is where its tensors lie, if not where the session's provider computes."""
        self.spec = spec
        self._session = session
        self._host = host or where(session)
        self._call = lru_cache(CALLS_KEPT)(partial(Call, spec, session, self._host))
        self._seconds: list[float] = []

    def limited(self, max_batch: int) -> "Cell":
        """The same cell with at most so many sessions a call."""
        return Cell(replace(self.spec, max_batch=max_batch), self._session, self._host)

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
        call = self._call(len(work), len(work[0].rows))
        call.fill(work)
        try:
            call.run()
        except Exception:  # ONNX Runtime's exceptions have no common class
            return self._alone(work)
        return call.results()

    def _alone(self, work: Sequence[CellWork]) -> list[CellResult | CellwireError]:
        """After a failed call: each by itself once, so that only the one that fails it is refused."""
        if len(work) == 1:
            return [ModelFailed("the model failed on this timestep")]
        return [self._together([each])[0] for each in work]

    def answer(self, work: Sequence[CellWork]) -> dict[str, Array]:
        """What the graph itself answers, by output name; raises what ONNX Runtime raises. For proofs only."""
        call = self._call(len(work), len(work[0].rows))
        call.fill(work)
        names = [each.name for each in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, call.feeds), strict=True))

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
