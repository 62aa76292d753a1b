"""Histograms that are touched each timestep or batch, where the library's own would cost ten times as much."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf

from prometheus_client import REGISTRY
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Tallies:
    """How many values fell into each bucket, and their sum: plain numbers of one thread."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """So many of this value."""
        self._counts[bisect_left(self._bounds, value)] += count
        self.sum += value * count

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus counts them: each with all below it."""
        return list(zip(map(floatToGoString, (*self._bounds, inf)), accumulate(self._counts), strict=True))


class Distribution(Collector):
    """A histogram that is touched each timestep or batch: the library's costs ten times as much."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], label: str = "") -> None:
        self._name, self._text, self._bounds = name, text, bounds
        self._label = label
        self._tallies: dict[str, Tallies] = {} if label else {"": Tallies(bounds)}
        REGISTRY.register(self)

    def labels(self, value: str = "") -> Tallies:
        """Where the values of this label are counted; "" without a label."""
        return self._tallies.setdefault(value, Tallies(self._bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The histogram, as Prometheus asks for it."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label] if self._label else [])
        for value, tallies in tuple(self._tallies.items()):
            family.add_metric([value] if self._label else [], tallies.buckets(), tallies.sum)
        yield family
