"""The metrics of several processes as those of one. Knows Prometheus' text, not who wrote it."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_CUMULATIVE = ("counter", "histogram")
_SPECIAL: Mapping[str, Callable[[float, float], float]] = {
    "cellwire_store_up": min,
    "cellwire_draining": max,
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "python_info": max,
}
"""Gauges whose sum would say nothing."""


class Totals(Collector):
    """Sums over processes that come and go: what one of them counted stays counted when it is gone."""

    def __init__(self) -> None:
        self._last: dict[int, list[Metric]] = {}
        """What each told when it was last asked."""
        self._gone: list[Metric] = []
        self._now: list[Metric] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The sums, as Prometheus asks for them."""
        yield from self._now

    def text(self, told: Mapping[int, str]) -> bytes:
        """The sums of what was told now, and of the counters of those who were silent or are gone.

        Args:
            told: the text of each process that answered, by its number.
        """
        now = {number: list(text_string_to_metric_families(text)) for number, text in told.items()}
        self._last.update(now)
        silent = [_counted(families) for number, families in self._last.items() if number not in now]
        self._now = summed([self._gone, *silent, *now.values()])
        return generate_latest(self._registry)

    def bury(self, number: int) -> None:
        """The process is gone; another one may get its number. What it counted since it was last asked is lost."""
        self._gone = summed([self._gone, _counted(self._last.pop(number, []))])


def summed(exposures: Iterable[Iterable[Metric]]) -> list[Metric]:
    """Families of the same name made one: samples of the same labels are added up, but for some gauges."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for exposure in exposures:
        for family in exposure:
            families.setdefault(family.name, family)
            sums = values.setdefault(family.name, {})
            combine = min if family.name.endswith("_created") else _SPECIAL.get(family.name, float.__add__)
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                sums[key] = combine(sums[key], sample.value) if key in sums else sample.value
    totals = []
    for name, family in families.items():
        total = Metric(name, family.documentation, family.type)
        for (sample_name, labels), value in values[name].items():
            total.add_sample(sample_name, dict(labels), value)
        totals.append(total)
    return totals


def _counted(families: Iterable[Metric]) -> list[Metric]:
    return [family for family in families if family.type in _CUMULATIVE]
