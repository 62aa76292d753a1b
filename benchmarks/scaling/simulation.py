"""A discrete-event simulation: open-loop sessions, replicas that batch while busy, a shard for each lane of commits.

It does not know where its costs come from. Left out: admission, the network, the noise of a machine, and what shares a
core with whom; so its latencies are those of queueing alone.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import numpy as np


@dataclass(frozen=True, slots=True)
class Case:
    """What is simulated; times in microseconds unless their names say otherwise."""

    replicas: int
    shards: int
    sessions: int
    rate: float
    """Timesteps a second of each session."""
    batch_fixed: float
    timestep: float
    call: float
    key: float
    max_batch: int = 64
    max_commit: int = 256
    steps_a_commit: int = 1
    """Above 1: write-behind, replies do not wait."""
    jitter: float = 0.2
    """Of the period: how far each arrival is from its place."""
    seconds: float = 2.0
    warm: float = 0.5
    """Seconds that do not count."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of the time that counts."""

    steps_per_second: float
    offered: float
    replica_busy: float
    shard_busy: float
    batch: float
    commit: float
    p50_ms: float
    p99_ms: float
    saturated: bool
    """More came than was answered: the queues grow, and the percentiles with the time that is simulated."""


BEHIND_OFFERED = 0.97
"""Below this part of what is offered a case is saturated; the rest is what is under way at the end."""


@dataclass(slots=True)
class _Timestep:
    session: int
    due: float


@dataclass(slots=True)
class _Replica:
    waiting: deque[_Timestep] = field(default_factory=deque)
    is_running: bool = False
    lanes: list[deque[_Timestep]] = field(default_factory=list)
    """What waits to be committed, for each shard."""
    flying: list[bool] = field(default_factory=list)


@dataclass(slots=True)
class _Shard:
    free_at: float = 0.0


class Simulation:
    """One run of a case."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._random = random.Random(case.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._now = 0.0
        self._from, self._end = case.warm * 1e6, (case.warm + case.seconds) * 1e6
        lanes = range(case.shards)
        self._replicas = [
            _Replica(lanes=[deque() for _ in lanes], flying=[False] * case.shards) for _ in range(case.replicas)
        ]
        self._shards = [_Shard() for _ in lanes]
        self._done = [0] * case.sessions
        self._latencies: list[float] = []
        self._arrived = 0
        self._busy = {"replica": 0.0, "shard": 0.0}
        self._batches: list[int] = []
        self._commits: list[int] = []

    def run(self) -> Outcome:
        """Until the end of the case."""
        case = self._case
        period = 1e6 / case.rate
        for session in range(case.sessions):
            self._arrive_at(session, self._random.random() * period)
        while self._events and self._events[0][0] < self._end:
            self._now, _, event = heapq.heappop(self._events)
            event()
        counted = case.seconds * 1e6
        told = np.array(self._latencies or [0.0]) / 1e3
        steps, offered = len(self._latencies) / case.seconds, self._arrived / case.seconds
        return Outcome(
            steps,
            offered,
            self._busy["replica"] / (counted * case.replicas),
            self._busy["shard"] / (counted * case.shards),
            float(np.mean(self._batches or [0])),
            float(np.mean(self._commits or [0])),
            float(np.percentile(told, 50)),
            float(np.percentile(told, 99)),
            steps < BEHIND_OFFERED * offered,
        )

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))

    def _work(self, kind: str, start: float, end: float) -> None:
        """Notes the part of it that counts."""
        self._busy[kind] += max(0.0, min(end, self._end) - max(start, self._from))

    def _arrive_at(self, session: int, place: float) -> None:
        """The places of a session are a period apart; it arrives somewhere near each."""
        period = 1e6 / self._case.rate
        due = max(self._now, place + (self._random.random() - 0.5) * self._case.jitter * period)

        def arrive() -> None:
            self._arrived += self._now >= self._from
            replica = self._replicas[session % len(self._replicas)]
            replica.waiting.append(_Timestep(session, due))
            self._arrive_at(session, place + period)
            if not replica.is_running:
                self._run_batch(replica)

        self._at(due, arrive)

    def _run_batch(self, replica: _Replica) -> None:
        """What waits, in one run; what arrives meanwhile is the next one's."""
        size = min(len(replica.waiting), self._case.max_batch)
        replica.is_running = size > 0
        if not size:
            return
        batch = [replica.waiting.popleft() for _ in range(size)]
        end = self._now + self._case.batch_fixed + size * self._case.timestep
        self._work("replica", self._now, end)
        if self._now >= self._from:
            self._batches.append(size)

        def ran() -> None:
            for timestep in batch:
                self._keep(replica, timestep)
            for lane in range(len(self._shards)):
                self._commit(replica, lane)
            self._run_batch(replica)

        self._at(end, ran)

    def _keep(self, replica: _Replica, timestep: _Timestep) -> None:
        """For the next commit of its lane; in write-behind it is answered now and each so many are committed."""
        self._done[timestep.session] += 1
        if self._case.steps_a_commit > 1:
            self._answer(timestep)
            if self._done[timestep.session] % self._case.steps_a_commit:
                return
        # not by the session's number alone, which has chosen the replica
        replica.lanes[timestep.session // len(self._replicas) % len(self._shards)].append(timestep)

    def _commit(self, replica: _Replica, lane: int) -> None:
        """One call of a lane at a time; meanwhile the next one gathers."""
        waiting, shard = replica.lanes[lane], self._shards[lane]
        if replica.flying[lane] or not waiting:
            return
        replica.flying[lane] = True
        size = min(len(waiting), self._case.max_commit)
        call = [waiting.popleft() for _ in range(size)]
        start = max(self._now, shard.free_at)
        shard.free_at = start + self._case.call + size * self._case.key
        self._work("shard", start, shard.free_at)
        if self._now >= self._from:
            self._commits.append(size)

        def committed() -> None:
            replica.flying[lane] = False
            if self._case.steps_a_commit == 1:
                for timestep in call:
                    self._answer(timestep)
            self._commit(replica, lane)

        self._at(shard.free_at, committed)

    def _answer(self, timestep: _Timestep) -> None:
        if self._now >= self._from:
            self._latencies.append(self._now - timestep.due)
