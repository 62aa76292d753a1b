"""What a number of live sessions needs: replicas, shards, memory, and which limit is met first."""

import math
from dataclasses import dataclass

from benchmarks.scaling.fit import MANY, MAX_BATCH, Costs

SESSIONS = (10_000, 1_000_000, 100_000_000)
RATES = (31, 100)
CONNECTIONS = 10_000
"""Of a shard: what Redis allows by default."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is served."""

    sessions: int
    rate: float
    """Timesteps a second of each."""
    behind: bool = False
    many: bool = False

    @property
    def steps(self) -> float:
        """A second, of all."""
        return self.sessions * self.rate


@dataclass(frozen=True, slots=True)
class Limits:
    """What is taken for granted; each is a row of the page."""

    utilisation: float = 0.7
    speed: float = 1.0
    """Of a core, against the one that was measured."""
    shard_gb: float = 64.0
    network_mb: float = 1250.0
    """A second, of a host, both ways together."""
    aof_mb: float = 200.0
    """A second, that the disk of a shard takes."""
    connections_a_replica: int = 4
    """To each shard: for writes, claims, leases and the rest."""
    behind_steps: int = 8
    behind_seconds: float = 0.05
    heartbeat_seconds: float = 5.0
    """Of a session whose stream is open and idle."""

    def steps_a_commit(self, load: Load) -> int:
        """Timesteps of a session in one commit."""
        if not load.behind:
            return 1
        return max(1, min(self.behind_steps, math.floor(self.behind_seconds * load.rate + 1e-9) + 1))


@dataclass(frozen=True, slots=True)
class Need:
    """Of one load, in cells: groups of replicas with one shard of their own; and as one cluster of all of them."""

    load: Load
    replicas: int
    """Cores: a replica is one process."""
    shards: int
    by_limit: dict[str, int]
    """Shards that each limit asks for."""
    binds: str
    """The limit that asks for most."""
    connections: int
    """Of the shard of a cell."""
    cluster_replicas: int
    cluster_shards: int
    cluster_connections: int
    """Of each shard of the cluster: every replica knows every shard."""
    store_gb: float
    replica_gb: float
    """Resident, of all replicas together."""

    @property
    def cluster_breaks(self) -> bool:
        """More replicas than one shard has connections for; more shards do not help."""
        return self.cluster_connections > CONNECTIONS


def batch(costs: Costs, rate: float, limits: Limits) -> float:
    """Timesteps a run in a replica that gets `rate` a second: those that come while one runs."""
    fixed, each = costs.replica.fixed / limits.speed / 1e6, costs.replica.each / limits.speed / 1e6
    left = 1 - rate * each
    return MAX_BATCH if left <= 0 else min(MAX_BATCH, max(1.0, rate * fixed / left))


def capacity(costs: Costs, load: Load, limits: Limits, clustered: bool = False) -> float:
    """Timesteps a second of a replica whose batches are full."""
    return 1e6 / replica_micros(costs, load, limits, clustered)


def replica_micros(costs: Costs, load: Load, limits: Limits, clustered: bool = False) -> float:
    """CPU of a replica a timestep at full batches."""
    micros = costs.many if load.many else costs.replica.at(1 / MAX_BATCH)
    if load.behind:
        micros *= 1 - costs.behind_share * (1 - 1 / limits.steps_a_commit(load))
    return micros * (costs.cluster_replica if clustered else 1.0) / limits.speed


def store_micros(costs: Costs, load: Load, limits: Limits, shards: int = 1) -> float:
    """CPU of the store a timestep; the commits of a full batch are split over the shards of a cluster."""
    steps = limits.steps_a_commit(load)
    commit = max(1.0, (MANY if load.many else MAX_BATCH) / steps / shards)
    micros = (costs.store.fixed / commit + costs.store.each + costs.behind_record * (steps - 1)) / steps
    return micros * (costs.cluster_store if shards > 1 else 1.0) / limits.speed


def need(costs: Costs, load: Load, limits: Limits) -> Need:
    """Replicas and shards at the limits' utilisation."""
    replicas = _replicas(costs, load, limits, clustered=False)
    steps = limits.steps_a_commit(load)
    moved = load.steps / steps * commit_bytes(costs, steps) / 1e6
    store_gb = load.sessions * costs.session_kb / 2**20
    asked = {
        "CPU": load.steps * store_micros(costs, load, limits) / 1e6,
        "AOF": moved / limits.aof_mb,
        "network": moved / limits.network_mb,
        "memory": store_gb / limits.shard_gb,
    }
    by_limit = {name: math.ceil(shards / limits.utilisation) for name, shards in asked.items()}
    shards = max(by_limit.values())
    cluster_replicas, cluster_shards = replicas, shards
    if shards > 1:
        cluster_replicas = _replicas(costs, load, limits, clustered=True)
        cpu = load.steps * store_micros(costs, load, limits, shards) / 1e6 / limits.utilisation
        cluster_shards = max(shards, math.ceil(cpu))
    return Need(
        load,
        replicas,
        shards,
        by_limit,
        max(asked, key=lambda name: asked[name]),
        math.ceil(replicas / shards) * limits.connections_a_replica,
        cluster_replicas,
        cluster_shards,
        cluster_replicas * limits.connections_a_replica,
        store_gb,
        replicas * costs.base_mb / 1024 + _streams(load) * costs.stream_kb / 2**20,
    )


def commit_bytes(costs: Costs, steps: int) -> float:
    """Of one commit of so many timesteps: one state, and for each further one as much as its client sent and got."""
    return costs.store_bytes + (steps - 1) * costs.client_bytes


def _replicas(costs: Costs, load: Load, limits: Limits, clustered: bool) -> int:
    return math.ceil(load.steps / capacity(costs, load, limits, clustered) / limits.utilisation)


def _streams(load: Load) -> float:
    return load.sessions / (MANY if load.many else 1)
