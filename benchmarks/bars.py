"""Ratios and figures out of measurements, and the bar of each.

Ratios are of two servers measured in turn: the ratio of each turn, and of these the median, so that a machine that
drifts takes both along. Of eight connections and one per stream the worse one counts.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.measurements import Case, Measurement, Results


@dataclass(frozen=True)
class Bar:
    """What a value must not pass."""

    name: str
    what: str
    bar: float
    beyond: float | None
    """Better still."""
    unit: str = ""
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether the value is on the right side, or on the bar."""
        return value >= self.bar if self.at_least else value <= self.bar


RATIOS = (
    Bar("cpu_vs_echo_32", "CPU a timestep against the bare echo, 32 streams", 1.40, 1.15),
    Bar("cpu_vs_echo_128", "the same, 128 streams", 1.20, 1.0),
    Bar("cpu_vs_echo_write_behind_32", "write-behind, 32 streams", 1.25, 1.0),
    Bar("cpu_vs_echo_mux_32", "32 sessions a message", 0.25, 0.15),
    Bar("cpu_vs_echo_mux_128", "128 sessions a message", 0.14, 0.08),
    Bar("cpu_vs_echo_mux_128_with_redis", "the same with Redis's CPU", 0.30, 0.20),
    Bar("cpu_vs_triton_32", "with Redis's CPU, against Triton, 32 sequences", 0.75, 0.4),
    Bar("cpu_vs_triton_128", "the same, 128 sequences", 0.60, 0.4),
    Bar("cpu_vs_triton_core_32", "against Triton's own process alone, 32 sequences", 1.0, 0.75),
    Bar("cpu_vs_triton_core_128", "the same, 128 sequences", 1.0, 0.75),
    Bar("cpu_vs_naive_32", "both with Redis's CPU, against the naive Redis server, 32 streams", 0.35, 0.25),
    Bar("p50_vs_echo_1", "p50 of one stream against the echo's", 2.5, 1.8),
    Bar("p50_vs_triton_1", "p50 of one stream against Triton's", 1.0, 0.7),
)
FIGURES = (
    Bar("p99_ms_at_70pct", "p99 at 70 % of capacity, open loop, 128 streams", 10.0, 5.0, "ms"),
    Bar("goodput_4x_vs_1x", "goodput at four times the capacity against once", 0.90, 0.97, at_least=True),
    Bar("rss_kb_per_idle_stream_above_echo", "memory of an open idle stream above the echo's", 16.0, 8.0, "KB"),
    Bar("rss_kb_per_stored_session", "memory of the replica for a session that is only stored", 0.1, None, "KB"),
    Bar("cpu_growth_32_to_4096", "CPU a timestep at 4,096 sessions against 32", 1.15, None),
    Bar("cpu_growth_stored_100k", "CPU a timestep with 100,000 sessions stored against none", 1.15, None),
)

OURS, ECHO = "cellwire", "echo"


def server(each: Measurement) -> float:
    """Microseconds of a timestep in the server."""
    return each.values["server_us"]


def with_redis(each: Measurement) -> float:
    """The same and in Redis."""
    return each.values["server_us"] + each.values["redis_us"]


def core(each: Measurement) -> float:
    """In the server's first process only."""
    return each.values["core_us"]


def p50(each: Measurement) -> float:
    """Milliseconds."""
    return each.values["p50_ms"]


Value = Callable[[Measurement], float]


def paired(
    results: Results, workload: str, ours: tuple[str, Case], other: tuple[str, Case], value: Value, others: Value
) -> float | None:
    """The median of the turns' ratios; None: not measured."""
    by_run = [{each.run: each for each in results.of(workload, name, **case)} for name, case in (ours, other)]
    ratios = [value(by_run[0][run]) / others(by_run[1][run]) for run in by_run[0].keys() & by_run[1].keys()]
    return statistics.median(ratios) if ratios else None


def worst(*values: float | None) -> float | None:
    """The largest; None if any is not measured."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def ratios(results: Results) -> dict[str, float]:
    """Those whose measurements are there."""
    told: dict[str, float | None] = {}
    for streams in (32, 128):
        cases: list[Case] = [{"streams": streams, "connections": connections} for connections in (8, streams)]
        told[f"cpu_vs_echo_{streams}"] = worst(
            *(paired(results, "W1", (OURS, case), (ECHO, case), server, server) for case in cases)
        )
        beside: list[Case] = [{**case, "beside": "triton"} for case in cases]
        for name, value, others in (("triton", with_redis, server), ("triton_core", server, core)):
            told[f"cpu_vs_{name}_{streams}"] = worst(
                *(paired(results, "baselines", (OURS, case), ("triton", case), value, others) for case in beside)
            )
        told[f"cpu_vs_echo_mux_{streams}"] = mux(results, streams, server)
    told["cpu_vs_echo_mux_128_with_redis"] = mux(results, 128, with_redis)
    of_32: list[Case] = [{"streams": 32, "connections": connections} for connections in (8, 32)]
    told["cpu_vs_echo_write_behind_32"] = worst(
        *(paired(results, "W8", (OURS, {**case, "mode": "behind"}), (ECHO, case), server, server) for case in of_32)
    )
    naive: list[Case] = [{**case, "beside": "naive redis"} for case in of_32]
    told["cpu_vs_naive_32"] = worst(
        *(paired(results, "baselines", (OURS, case), ("naive redis", case), with_redis, with_redis) for case in naive)
    )
    one: Case = {"streams": 1, "client": "grpc.aio"}
    told["p50_vs_echo_1"] = paired(results, "W1", (OURS, one), (ECHO, one), p50, p50)
    one = {**one, "beside": "triton"}
    told["p50_vs_triton_1"] = paired(results, "baselines", (OURS, one), ("triton", one), p50, p50)
    return {bar.name: round(told[bar.name], 3) for bar in RATIOS if told[bar.name] is not None}  # type: ignore[arg-type]


def mux(results: Results, sessions: int, value: Value) -> float | None:
    """A timestep among so many a message, against an echo's message with as many streams."""
    echo: Case = {"streams": sessions, "connections": 8}
    return paired(results, "W3", (OURS, {"sessions": sessions}), (ECHO, echo), value, server)


def figures(results: Results) -> dict[str, float]:
    """Those whose measurements are there."""
    told = {
        "p99_ms_at_70pct": results.median("W2", OURS, "p99_ms", percent=70),
        "goodput_4x_vs_1x": results.median("W10", OURS, "goodput_4x_vs_1x"),
        "rss_kb_per_idle_stream_above_echo": idle(results),
        "rss_kb_per_stored_session": per(results, "growth", OURS, "sessions", kind="stored"),
        "cpu_growth_32_to_4096": growth(results, {"sessions": 4096}, {"sessions": 32}),
        "cpu_growth_stored_100k": growth(results, {"stored": "many"}, {"stored": "none"}),
    }
    return {name: round(value, 3) for name, value in told.items() if value is not None}


def growth(results: Results, late: Case, early: Case) -> float | None:
    """CPU a timestep in one case against the other, server and Redis."""
    return paired(results, "growth", (OURS, late), (OURS, early), with_redis, with_redis)


def idle(results: Results) -> float | None:
    """Memory of an idle stream above the echo's, on shared connections and on their own, the larger."""
    kinds = ("shared", "own")
    ours = [per(results, "W6", OURS, "streams", kind=kind) for kind in kinds]
    echo = [per(results, "W6", ECHO, "streams", kind=kind) for kind in kinds]
    above = [mine - theirs for mine, theirs in zip(ours, echo, strict=True) if mine is not None and theirs is not None]
    return max(above) if above else None


def per(results: Results, workload: str, name: str, unit: str, **case: int | float | str) -> float | None:
    """KB of memory that the server has taken for each of a unit of the case, the median of the turns."""
    grown = [each.values["rss_grown_kb"] / float(each.case[unit]) for each in results.of(workload, name, **case)]
    return statistics.median(grown) if grown else None


def missed(values: Mapping[str, float]) -> list[str]:
    """Names of bars that are not met."""
    return [bar.name for bar in (*RATIOS, *FIGURES) if bar.name in values and not bar.met(values[bar.name])]
