"""docs/scaling.md and its picture: the model, what it asks for, and how far simulation and run agree with it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.measurements import Results
from benchmarks.report import FEWEST_RUNS, table
from benchmarks.scaling import plan
from benchmarks.scaling.fit import MANY_BAR, MAX_BATCH, Costs, Line, plain_points
from benchmarks.scaling.plan import CONNECTIONS, Limits, Load
from benchmarks.scaling.slices import Row

ACTIVE = 0.01
SLICE_TITLES = (
    "replicas + shards", "%", "steps/s", "batch", "replica busy", "shard busy", "p50 ms", "p99 ms", "saturated",
)  # fmt: skip
HUGE = 100_000_000


def write(
    results: Results, costs: Costs, limits: Limits, slices: Sequence[Row], measured: Sequence[Row], path: Path
) -> None:
    """The page, and its picture in a folder beside it."""
    folder = path.with_suffix("")
    draw(results, costs, slices, folder / "fit.png")
    parts = [
        head(results),
        fitted(costs),
        assumptions(costs, limits),
        needs(costs, limits),
        idle(costs, limits),
        breaks(costs, limits),
        checked(slices, measured),
        f"![fit and simulation]({folder.name}/fit.png)\n",
        DOUBTS,
    ]
    path.write_text("\n".join(parts))


def head(results: Results) -> str:
    """What made it, from what."""
    provisional = ""
    if results.settings.get("runs", 0) < FEWEST_RUNS:
        provisional = "\n**Provisional: the run has fewer than three turns.**\n"
    return f"""# Scaling on paper

What 10 thousand to 100 million live sessions need, computed from what one replica and one store were measured to cost.
Nothing here was measured at that size: it is a model, with its errors and a simulation beside it. The page is made by
`python -m benchmarks.scaling --page docs/scaling.md` from `benchmarks/results/latest.json`; `--results PATH` takes
another run, `--json` shows every figure.

Fitted from the run of {results.at}: {results.machine.get("cpu")}, Python {results.machine.get("python")}.
{provisional}"""


def fitted(costs: Costs) -> str:
    """The model in numbers."""
    many = "measured" if costs.many_measured else f"**assumed**: {MANY_BAR:g} of the echo's; not measured in this run"
    rows = [
        ("replica, CPU a timestep", _formula(costs.replica, "batch"), _errors(costs.replica)),
        ("store, CPU a timestep", _formula(costs.store, "commits a call"), _errors(costs.store)),
        ("replica, StreamMany at 128 sessions a message", f"{costs.many:.1f} us", many),
        ("write-behind: a commit's share of the replica's CPU", f"{costs.behind_share:.0%}", "pairs of W8"),
        ("write-behind: store, each further timestep in a commit", f"{costs.behind_record:.1f} us", "pairs of W8"),
        (
            "a cluster: replica, store",
            f"x {costs.cluster_replica:.2f}, x {costs.cluster_store:.2f}",
            "W14, 128 streams",
        ),
        ("store, bytes in and out a commit", f"{costs.store_bytes:,.0f}", "W1, 128 streams"),
        ("client, payload in and out a timestep", f"{costs.client_bytes:,.0f} bytes", "W1; without HTTP/2 and TCP"),
        ("replica, resident when it does nothing", f"{costs.base_mb:,.0f} MB", "W6"),
        ("replica, resident an open stream", f"{costs.stream_kb:.1f} KB", "W6"),
        ("store, memory a session with a full ring", f"{costs.session_kb:.1f} KB", "W1, 128 sessions; with buffers"),
    ]
    return (
        "## The model\n\n"
        + table(("what", "fitted", "error, source"), rows)
        + (
            "\nThe lines go through all points of W1, W2 and W8 in write-through, by least squares of relative\n"
            "distances; ± is one standard error. The rows of W8 and W14 are of a few points each: they have no error\n"
            "that means anything, take them for a third up or down.\n"
        )
    )


def assumptions(costs: Costs, limits: Limits) -> str:
    """What was not measured."""
    slow, fast = (limits.steps_a_commit(Load(1, rate, behind=True)) for rate in plan.RATES)
    rows = [
        ("utilisation", f"{limits.utilisation:.0%} of the throughput at full batches ({MAX_BATCH}), of each limit"),
        ("speed of a core", f"{limits.speed:g} of the measured one (`--speed`)"),
        ("state", "1 KB (LSTM of 128 units), one timestep a message"),
        ("a replica", "one process, one core; as many streams as it has work for"),
        ("a shard", f"one core, {limits.shard_gb:g} GB, no copies: each copy costs its memory and network again"),
        ("network", f"{limits.network_mb:,.0f} MB/s a host, both ways together"),
        ("AOF", f"{limits.aof_mb:,.0f} MB/s, `everysec`; as many bytes as cross the connection, rewrites not counted"),
        ("connections", f"{limits.connections_a_replica} a replica to each shard, {CONNECTIONS:,} a shard"),
        (
            "write-behind",
            f"{limits.behind_steps} timesteps or {limits.behind_seconds * 1000:g} ms: at 31/s {slow} timesteps "
            f"a commit, at 100/s {fast}",
        ),
        ("StreamMany", "saves a replica's transport, nothing of the store; write-behind saves it the same share"),
    ]
    return "## Assumptions\n\n" + table(("what", "taken"), rows)


def needs(costs: Costs, limits: Limits) -> str:
    """The table that the page is for."""
    rows = []
    for load in loads():
        need = plan.need(costs, load, limits)
        clients = load.steps * costs.client_bytes * 8 / 1e9
        rows.append(
            (
                _count(load.sessions),
                f"{load.rate:g}",
                "behind" if load.behind else "through",
                "128 a message" if load.many else "one a stream",
                _count(need.replicas),
                _count(need.shards),
                need.binds,
                " / ".join(_count(need.by_limit[name]) for name in ("AOF", "network", "memory")),
                f"{need.connections:,}",
                f"{_count(need.cluster_replicas)} + {_count(need.cluster_shards)}",
                f"{_count(need.cluster_connections)}{' **(too many)**' if need.cluster_breaks else ''}",
                f"{need.store_gb:,.1f}",
                f"{need.replica_gb:,.0f}",
                f"{clients:,.1f}",
            )
        )
    titles = (
        "live sessions", "steps/s each", "write-", "sessions", "replicas (cores)", "shards (cores)", "binds",
        "AOF / network / memory alone", "connections a shard", "as one cluster: replicas + shards",
        "connections a shard then", "store GB", "replicas GB", "client Gbit/s",
    )  # fmt: skip
    return "## What it takes\n\n" + NEEDS + "\n" + table(titles, rows)


def loads() -> Iterable[Load]:
    """All that the page shows."""
    for sessions in plan.SESSIONS:
        for rate in plan.RATES:
            for many in (False, True):
                for behind in (False, True):
                    yield Load(sessions, rate, behind, many)


def idle(costs: Costs, limits: Limits) -> str:
    """100 million sessions, most of which do nothing."""
    most = plan.need(costs, Load(HUGE, 31), limits)
    some = plan.need(costs, Load(round(HUGE * ACTIVE), 31), limits)
    memory = most.by_limit["memory"]
    beats = HUGE / limits.heartbeat_seconds
    beating = math.ceil(beats * costs.store.each / limits.speed / 1e6 / limits.utilisation)
    rows = [
        ("all advance 31 times a second", f"{HUGE * 31 / 1e9:.1f} G", _count(most.replicas), _count(most.shards)),
        (
            "1 % advance, the others have no stream",
            f"{HUGE * ACTIVE * 31 / 1e6:.0f} M",
            _count(some.replicas),
            _count(max(memory, some.shards)),
        ),
        (
            "all have an open stream and do nothing",
            f"{beats / 1e6:.0f} M heartbeats",
            f"memory: {HUGE * costs.stream_kb / 2**30:,.1f} TB",
            _count(max(memory, beating)),
        ),
        ("none has a stream", "0", "0", f"{memory:,} (memory)"),
    ]
    return (
        "## 100 million sessions, honestly\n\n"
        + IDLE
        + "\n"
        + table(("100 million sessions, of which", "steps/s", "replicas", "shards"), rows)
    )


def breaks(costs: Costs, limits: Limits) -> str:
    """In the order in which limits are met, with what to do."""
    load = Load(10_000, 31)
    capacity, store = plan.capacity(costs, load, limits), 1e6 / plan.store_micros(costs, load, limits)
    used = limits.utilisation
    size = plan.commit_bytes(costs, 1)
    connected = CONNECTIONS // limits.connections_a_replica
    lag = replace(limits, behind_seconds=limits.behind_steps / 31)
    before, after = (plan.store_micros(costs, Load(10_000, 31, behind=True), each) for each in (limits, lag))
    many = plan.capacity(costs, Load(10_000, 31, many=True), limits)
    rows = [
        (
            "replica CPU",
            f"{capacity * used:,.0f} steps/s a core",
            f"StreamMany ({many * used:,.0f} steps/s a core), more timesteps a message, more replicas",
        ),
        (
            "store CPU",
            f"{store * used:,.0f} steps/s a shard, {store / capacity:.1f} replicas of one session a stream",
            "more cells; write-behind; and at 31/s a larger `CELLWIRE_WRITE_BEHIND_SECONDS`: "
            f"{limits.behind_seconds * 1000:g} ms is {before:.0f} us a timestep, "
            f"{lag.behind_seconds * 1000:.0f} ms is {after:.0f}",
        ),
        (
            "connections",
            f"{connected:,} replicas that know one shard",
            "cells; a larger `maxclients`; more shards do not help",
        ),
        (
            "AOF",
            f"{limits.aof_mb * used * 1e6 / size:,.0f} commits/s a shard",
            "write-behind, a smaller state, a faster disk",
        ),
        ("network of a shard", f"{limits.network_mb * used * 1e6 / size:,.0f} commits/s", "as AOF; copies count again"),
        (
            "memory of a shard",
            f"{limits.shard_gb * used * 2**20 / costs.session_kb / 1e6:,.1f} M sessions",
            "a shorter `CELLWIRE_IDLE_TTL`, a smaller `CELLWIRE_RING`, more shards",
        ),
    ]
    return "## Where it breaks first\n\n" + BREAKS + "\n" + table(("limit", f"met at {used:.0%}", "what to do"), rows)


def checked(slices: Sequence[Row], measured: Sequence[Row]) -> str:
    """The simulation beside the model, and beside the run."""
    beside_model = [
        (
            f"{row.replicas} + {row.shards}",
            f"{row.percent:g}",
            f"{row.predicted.steps_per_second:,.0f} / {row.simulated.steps_per_second:,.0f}",
            f"{row.predicted.batch:.1f} / {row.simulated.batch:.1f}",
            f"{row.predicted.replica_busy:.2f} / {row.simulated.replica_busy:.2f}",
            f"{row.predicted.shard_busy:.2f} / {row.simulated.shard_busy:.2f}",
            f"{row.simulated.p50_ms:.1f}",
            f"{row.simulated.p99_ms:.1f}",
            "yes" if row.simulated.saturated else "no",
        )
        for row in slices
    ]
    beside_run = [
        (
            f"{row.percent:g}",
            f"{row.measured['steps_per_second']:,.0f} / {row.simulated.steps_per_second:,.0f}",
            f"{row.measured['batch']:.1f} / {row.simulated.batch:.1f}",
            f"{row.measured['server_busy']:.2f} / {row.simulated.replica_busy:.2f}",
            f"{row.measured['p50_ms']:.1f} / {row.simulated.p50_ms:.1f}",
            f"{row.measured['p99_ms']:.1f} / {row.simulated.p99_ms:.1f}",
        )
        for row in measured
    ]
    return "\n".join(
        (
            "## The simulation\n",
            CHECKED,
            "Slices at parts of the capacity of what is full first, model / simulation:\n",
            table(SLICE_TITLES, beside_model),
            "One replica at the loads of W2, measured / simulation:\n",
            table(("%", "steps/s", "batch", "replica busy", "p50 ms", "p99 ms"), beside_run),
            _verdict(measured),
        )
    )


def draw(results: Results, costs: Costs, slices: Sequence[Row], path: Path) -> None:
    """Points and line of the replica; latencies of the slice."""
    mpl.use("Agg")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.2), dpi=80, layout="constrained")
    points = plain_points(results, "server_us")
    left.plot(*zip(*points, strict=True), "o", label="measured")
    left.axline((0, costs.replica.each), slope=costs.replica.fixed, label="fitted")
    left.set(xlabel="1 / batch", ylabel="replica, us of CPU a timestep", ylim=(0, None))
    for name in ("p50_ms", "p99_ms"):
        first = (slices[0].replicas, slices[0].shards)
        steady = [row for row in slices if (row.replicas, row.shards) == first and not row.simulated.saturated]
        values = [getattr(row.simulated, name) for row in steady]
        right.plot([row.percent for row in steady], values, "o-", label=name.removesuffix("_ms"))
    right.set(xlabel="% of capacity, simulated", ylabel="ms", ylim=(0, None))
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _verdict(measured: Sequence[Row]) -> str:
    if not measured:
        return "W2 was not measured in this run.\n"

    def apart(name: str, ours: str) -> str:
        parts = [row.measured[name] / getattr(row.simulated, ours) for row in measured]
        return f"{min(parts):.1f} to {max(parts):.1f}"

    return (
        f"Measured over simulated: batch {apart('batch', 'batch')}, p50 {apart('p50_ms', 'p50_ms')}, p99 "
        f"{apart('p99_ms', 'p99_ms')}, CPU\n{apart('server_busy', 'replica_busy')}. Where these are far from 1 the "
        "simulation's latencies are a lower bound and no\nforecast; less CPU in larger batches means that "
        "the replica was kept from its core.\n"
    )


def _formula(line: Line, unit: str) -> str:
    return f"{line.fixed:,.0f} us / {unit} + {line.each:.1f} us"


def _errors(line: Line) -> str:
    return (
        f"± {line.fixed_error:,.0f} us, ± {line.each_error:.1f} us; points lie {line.spread:.0%} off the line "
        f"(rms of {line.points})"
    )


def _count(value: float) -> str:
    """Three digits are more than the fit has."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= 10 * size or (unit == "M" and value >= size):
            return f"{float(f'{value / size:.3g}'):,g} {unit}"
    return f"{value:,.0f}"


NEEDS = """\
A *cell* is one shard and the replicas that use it; clients choose a cell by a hash of the session's name. "Shards"
are those of cells, "as one cluster" is the same load on one Redis Cluster that every replica knows. Where there are
fewer replicas than shards, a cell is one replica and a cluster of a few shards, or its replica is partly idle. Digits
are there to compare rows; no figure is better than the errors above.
"""

IDLE = """\
A live session at 31 timesteps a second costs CPU whoever serves it, so 100 million of them are data centres of
their own and no configuration of this service. What is realistic is many sessions of which few advance. One without a
stream costs memory of the store alone. One with an open stream costs a replica its memory, and the store a heartbeat
every five seconds, taken here for as dear as a commit in a full call; what a heartbeat costs a replica was not
measured, so there the memory is shown. A client that rests should end its stream; resuming is one claim.
"""

BREAKS = """\
In the order in which a growing installation of one session a stream meets them. Replicas and shards batch while
busy: they take up idle CPU with smaller batches, so they look busy long before they are full. What counts is their
throughput at full batches, and for alarms the refusals and the time in queue, not CPU.

One cluster of all shards costs more than cells: each replica's commits are spread over all shards, so a call carries
few of them and its fixed cost weighs, and every shard has connections from every replica.
"""

CHECKED = """\
Sessions send at jittered periods whatever comes back; a replica runs what waits, at most 64 at once; each shard
has one call of a replica under way while the next gathers, and serves calls in turn. Costs are those fitted above, for
one store also where there are two: it is the queueing that is checked. It leaves out admission, the network, stalls of
the machine, and that the client shares the store's core in the benchmarks. At low loads the model is too high: it does
not see that timesteps meet by chance.
"""

DOUBTS = """\
## What to doubt

- Costs a timestep were fitted on up to 512 streams a replica and taken as constant beyond.
- Sessions are spread evenly over replicas and shards; a hot shard is full when the others are not.
- Opening, closing, takeovers, rolling restarts, AOF rewrites and copies of the store come on top.
- Simulated percentiles know queueing alone; capacity follows from CPU and is the firmer half of this page.
"""
