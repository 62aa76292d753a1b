"""Metrics of several processes as those of one."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.totals import Totals


class Process:
    """The metrics of one process."""

    def __init__(self, steps: int, open_streams: int, up: int = 1) -> None:
        self.registry = CollectorRegistry()
        self.steps = Counter("steps", "Steps.\nOf all.", ["model"], registry=self.registry)
        self.steps.labels("a").inc(steps)
        seconds = Histogram("seconds", "Took.", buckets=(0.1, 1), registry=self.registry)
        for _ in range(steps):
            seconds.observe(0.5)
        for name, value in (("streams", open_streams), ("cellwire_store_up", up), ("cellwire_draining", 1 - up)):
            Gauge(name, name, registry=self.registry).set(value)

    def text(self) -> str:
        return generate_latest(self.registry).decode()


def values(text: bytes) -> dict[str, float]:
    """Each sample by its name and labels; every family must stand there once."""
    families = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in families}) == len(families)
    samples = [sample for family in families for sample in family.samples]
    found = {name + "".join(map(str, labels.values())): value for name, labels, value, *_ in samples}
    assert len(found) == len(samples)
    return found


def test_counters_and_histograms_are_added_up_and_gauges_as_makes_sense() -> None:
    first, second = Process(2, 5), Process(3, 7, up=0)
    second.steps.labels("b").inc(9)
    told = values(Totals().text({1: first.text(), 2: second.text()}))
    assert (told["steps_totala"], told["steps_totalb"]) == (5, 9)
    assert (told["seconds_count"], told["seconds_sum"]) == (5, 2.5)
    assert (told["seconds_bucket0.1"], told["seconds_bucket1.0"], told["seconds_bucket+Inf"]) == (0, 5, 5)
    assert (told["streams"], told["cellwire_store_up"], told["cellwire_draining"]) == (12, 0, 1)
    created = [values(process.text().encode())["seconds_created"] for process in (first, second)]
    assert told["seconds_created"] == min(created)


def test_names_kinds_and_help_are_those_of_one_process() -> None:
    one = Process(2, 5).text()

    def described(text: str) -> list[tuple[str, str, str]]:
        return [(family.name, family.type, family.documentation) for family in text_string_to_metric_families(text)]

    totals = Totals()
    assert totals.text({1: one}).decode() == one
    assert described(totals.text({1: one, 2: Process(1, 1).text()}).decode()) == described(one)


def test_what_the_dead_and_the_silent_counted_stays_and_their_gauges_do_not() -> None:
    totals = Totals()
    totals.text({1: Process(2, 5).text(), 2: Process(3, 7).text()})
    silent = values(totals.text({2: Process(4, 7).text()}))
    assert (silent["steps_totala"], silent["seconds_count"], silent["streams"]) == (6, 6, 7)
    totals.bury(1)
    dead = values(totals.text({2: Process(4, 7).text()}))
    assert (dead["steps_totala"], dead["seconds_count"], dead["streams"]) == (6, 6, 7)
    again = values(totals.text({1: Process(1, 1).text(), 2: Process(4, 7).text()}))
    assert (again["steps_totala"], again["seconds_count"], again["streams"]) == (7, 7, 8)
    totals.bury(1)
    totals.bury(2)
    last = values(totals.text({}))
    assert (last["steps_totala"], last["seconds_bucket+Inf"]) == (7, 7)
    assert "streams" not in last


def test_one_who_was_never_asked_can_be_buried() -> None:
    totals = Totals()
    totals.bury(1)
    assert values(totals.text({2: Process(3, 7).text()}))["steps_totala"] == pytest.approx(3)
