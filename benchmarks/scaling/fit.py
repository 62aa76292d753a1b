"""What a timestep costs a replica and its store, fitted from a run of the benchmarks. Knows no deployment."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.measurements import Measurement, Results

MAX_BATCH = 64
"""Timesteps a run of the cell, the most: what the benchmarks' model is served with."""
MAX_COMMIT = 256
"""Commits a call to the store, the most."""
MANY = 128
"""Sessions a message of StreamMany."""
MANY_BAR = 0.14
"""Of the echo's CPU a timestep: the bar of StreamMany at 128 sessions a message, taken where it is not measured."""
FEWEST = 3
"""Points that a line of two parameters needs before its error means anything."""


class TooFew(ValueError):
    """The run lacks measurements that the fit needs; the text names them."""


@dataclass(frozen=True, slots=True)
class Line:
    """y = fixed * x + each, in microseconds, by relative least squares; errors are one standard error."""

    fixed: float
    each: float
    fixed_error: float
    each_error: float
    spread: float
    """Root mean square of the points' relative distances from the line."""
    points: int

    def at(self, x: float) -> float:
        """Microseconds."""
        return self.fixed * x + self.each


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one session a stream in write-through on one store, and what other ways of use change."""

    replica: Line
    """CPU a timestep over 1 / batch."""
    store: Line
    """CPU of the store a timestep over 1 / commits a call."""
    behind_share: float
    """Of a replica's CPU a timestep: what a commit is, saved where there is none."""
    behind_record: float
    """Microseconds of the store for each further timestep in a commit."""
    cluster_replica: float
    """A replica's CPU a timestep on a cluster, as a multiple."""
    cluster_store: float
    """The same of the store."""
    many: float
    """Microseconds of a replica a timestep at 128 sessions a message."""
    many_measured: bool
    """False: it is the bar."""
    client_bytes: float
    """Payload in and out a timestep, one session a stream."""
    store_bytes: float
    """In and out of the store a commit."""
    stream_kb: float
    """Resident in a replica an open stream."""
    session_kb: float
    """Memory of the store a live session, with a full ring."""
    base_mb: float
    """Resident in a replica that does nothing."""


def costs(results: Results) -> Costs:
    """Fitted from a run.

    Raises:
        TooFew: the run lacks what the fit needs.
    """
    replica = line(plain_points(results, "server_us"))
    store = line(plain_points(results, "redis_us"))
    behind_share, behind_record = _behind(results, store)
    many = results.median("W3", "cellwire", "server_us", sessions=MANY)
    bar = MANY_BAR * _median(results, "W1", "echo", "server_us", streams=128, connections=8)
    one, many_nodes = ({"streams": 128, "nodes": nodes} for nodes in ("one", "cluster"))

    def on_cluster(value: str) -> float:
        clustered = _median(results, "W14", "cellwire", value, **many_nodes)
        return clustered / _median(results, "W14", "cellwire", value, **one)

    load = {"streams": 128, "connections": 8}
    sizes = [_median(results, "W1", "cellwire", value, **load) for value in ("request_bytes", "reply_bytes")]
    idle = list(results.of("W6", "cellwire", kind="shared"))
    if not idle:
        raise TooFew("W6: no idle streams on shared connections")
    grown = median(each.values["rss_grown_kb"] / int(each.case["streams"]) for each in idle)
    return Costs(
        replica,
        store,
        behind_share,
        behind_record,
        cluster_replica=on_cluster("server_us"),
        cluster_store=on_cluster("redis_us"),
        many=bar if many is None else many,
        many_measured=many is not None,
        client_bytes=sum(sizes),
        store_bytes=_median(results, "W1", "cellwire", "store_bytes", **load),
        stream_kb=grown,
        session_kb=_median(results, "W1", "cellwire", "store_grown_kb", **load) / load["streams"],
        base_mb=median(each.values["rss_kb"] - each.values["rss_grown_kb"] for each in idle) / 1024,
    )


def plain_points(results: Results, value: str) -> list[tuple[float, float]]:
    """Of all measurements in write-through: 1 / batch, or 1 / commit for the store, and microseconds a timestep."""
    size = "commit" if value == "redis_us" else "batch"
    through = [each for each in _ours(results, "W1", "W2", "W8") if _is_plain(each)]
    return [(1 / each.values[size], each.values[value]) for each in through]


def line(points: Iterable[tuple[float, float]]) -> Line:
    """Through (x, y), each point's distance counted as a part of its y; neither parameter below zero.

    Raises:
        TooFew: fewer than three points, or all at one x.
    """
    x, y = np.array(sorted(points), dtype=np.float64).reshape(-1, 2).T
    if len(x) < FEWEST or np.ptp(x) == 0:
        raise TooFew(f"{len(x)} points, or all of one batch size, do not make a line")
    weighted = np.stack((x, np.ones_like(x)), axis=1) / y[:, None]
    inverse = np.linalg.inv(weighted.T @ weighted)
    found = np.maximum(inverse @ weighted.T @ np.ones_like(y), 0.0)
    distances = weighted @ found - 1.0
    errors = np.sqrt(np.diag(inverse) * (distances @ distances) / (len(x) - 2))
    spread = float(np.sqrt(np.mean(distances**2)))
    return Line(float(found[0]), float(found[1]), float(errors[0]), float(errors[1]), spread, len(x))


def _behind(results: Results, store: Line) -> tuple[float, float]:
    """The share of a commit in a replica's CPU, and the store's microseconds a further timestep in a commit: each
    measurement in write-behind against the one in write-through of its turn and its connections."""
    shares, records = [], []
    for behind in _ours(results, "W8"):
        if behind.case.get("mode") != "behind":
            continue
        case = {**behind.case, "mode": "through"}
        beside = [each for each in results.of("W8", "cellwire", **case) if each.run == behind.run]
        commits = behind.values["store_calls"] * behind.values["commit"]
        if not beside or commits >= 1:
            continue
        shares.append((1 - behind.values["server_us"] / beside[0].values["server_us"]) / (1 - commits))
        known = store.fixed * behind.values["store_calls"] + store.each * commits
        records.append((behind.values["redis_us"] - known) / (1 - commits))
    if not shares:
        raise TooFew("W8: no write-behind beside write-through")
    return min(max(median(shares), 0.0), 0.9), max(median(records), 0.0)


def _ours(results: Results, *workloads: str) -> Iterable[Measurement]:
    """Those of the service that have told of their batches."""
    for workload in workloads:
        yield from (each for each in results.of(workload, "cellwire") if "batch" in each.values)


def _is_plain(each: Measurement) -> bool:
    """Write-through, one unix socket, nothing refused: a refusal costs and is no timestep."""
    return each.case.get("mode", "through") == "through" and not each.values.get("refused")


def _median(results: Results, workload: str, server: str, value: str, **case: int | float | str) -> float:
    found = results.median(workload, server, value, **case)
    if found is None:
        raise TooFew(f"{workload}: no {value} of {server} at {case}")
    return found
