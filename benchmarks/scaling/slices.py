"""What is simulated, and what the model and the measurements say of the same loads."""

from dataclasses import dataclass

from benchmarks.measurements import Results
from benchmarks.scaling import plan
from benchmarks.scaling.fit import MAX_BATCH, MAX_COMMIT, Costs
from benchmarks.scaling.simulation import Case, Outcome, Simulation

PERCENT = (25, 50, 70, 90, 110)
SLICE_RATE = 31.0


@dataclass(frozen=True, slots=True)
class Predicted:
    """By the model."""

    steps_per_second: float
    batch: float
    replica_busy: float
    shard_busy: float


@dataclass(frozen=True, slots=True)
class Row:
    """One load; what is beside the simulation is the model or a measurement."""

    replicas: int
    shards: int
    percent: float
    simulated: Outcome
    predicted: Predicted
    measured: dict[str, float]
    """Empty: this load was not measured."""


def case_of(costs: Costs, replicas: int, shards: int, sessions: float, rate: float, seconds: float) -> Case:
    """One session a stream, write-through, each lane one call a batch."""
    return Case(
        replicas,
        shards,
        max(1, round(sessions)),
        rate,
        costs.replica.fixed,
        costs.replica.each,
        costs.store.fixed,
        costs.store.each,
        MAX_BATCH,
        MAX_COMMIT,
        seconds=seconds,
    )


def capacity(costs: Costs, replicas: int, shards: int) -> float:
    """Timesteps a second, with full batches, of whichever is full first."""
    return min(replicas * 1e6 / costs.replica.at(1 / MAX_BATCH), shards * 1e6 / costs.store.at(1 / MAX_COMMIT))


def predicted(costs: Costs, case: Case) -> Predicted:
    """The same load by the model."""
    steps = case.sessions * case.rate
    done = min(steps, capacity(costs, case.replicas, case.shards))
    each = done / case.replicas
    size = plan.batch(costs, each, plan.Limits())
    busy = min(1.0, each * costs.replica.at(1 / size) / 1e6)
    # of a batch, the shards that get a commit; a shard that is busy is not full, because then commits gather
    calls = case.shards * (1 - (1 - 1 / case.shards) ** size)
    micros = case.call * calls / size + case.key
    return Predicted(done, size, busy, min(1.0, done * micros / 1e6 / case.shards))


def grid(costs: Costs, replicas: int, shards: int, seconds: float) -> list[Row]:
    """A slice of a deployment at parts of its capacity."""
    full = capacity(costs, replicas, shards)
    rows = []
    for percent in PERCENT:
        case = case_of(costs, replicas, shards, full * percent / 100 / SLICE_RATE, SLICE_RATE, seconds)
        rows.append(Row(replicas, shards, percent, Simulation(case).run(), predicted(costs, case), {}))
    return rows


def against_measured(costs: Costs, results: Results, seconds: float) -> list[Row]:
    """One replica at the loads of W2, each simulated at the rate that was measured."""
    rows = []
    for percent in sorted({each.case["percent"] for each in results.of("W2", "cellwire")}, key=float):
        if percent == 100:  # the closed loop that the parts are parts of
            continue
        names = ("steps_per_second", "batch", "commit", "server_busy", "p50_ms", "p99_ms")
        found = {name: results.median("W2", "cellwire", name, percent=percent) for name in names}
        measured = {name: value for name, value in found.items() if value is not None}
        streams = int(next(results.of("W2", "cellwire", percent=percent)).case["streams"])
        case = case_of(costs, 1, 1, streams, measured["steps_per_second"] / streams, seconds)
        rows.append(Row(1, 1, float(percent), Simulation(case).run(), predicted(costs, case), measured))
    return rows
