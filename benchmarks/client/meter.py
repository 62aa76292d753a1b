"""Counts what a client sees, and reads the processes that it watches at the instants between which it counts."""

import time
from collections.abc import Mapping, Sequence

from benchmarks import processes
from benchmarks.client.task import Told


class Meter:
    """`begin` and `end` are the instants; `answered` is called for each message, between them or not."""

    def __init__(self, watch: Mapping[str, Sequence[int]]) -> None:
        self._watch = watch
        self._latencies: list[float] = []
        self._all_steps = 0
        self._steps_before = 0
        self.sessions = self.refused = 0
        """Since `begin`: sessions that were gone through, timesteps that were refused."""

    def answered(self, latency: float, steps: int) -> None:
        """A message of so many timesteps, after so many seconds."""
        self._latencies.append(latency)
        self._all_steps += steps

    def begin(self) -> None:
        """What counts begins."""
        self._before = self._read()
        self._latencies.clear()
        self._steps_before = self._all_steps
        self.sessions = self.refused = 0

    def end(self) -> Told:
        """What was seen since `begin`."""
        latencies = sorted(self._latencies)
        began, cpu_before, resident_before = self._before
        ended, cpu, resident = self._read()
        told = Told(sessions=self.sessions, refused=self.refused)
        told.seconds = ended - began
        told.messages = len(latencies)
        told.steps = self._all_steps - self._steps_before
        told.all_steps = self._all_steps
        if latencies:
            told.p50_ms, told.p99_ms, told.max_ms = (1000 * _quantile(latencies, part) for part in (0.5, 0.99, 1.0))
        told.client_cpu = cpu.pop("") - cpu_before.pop("")
        told.cpu = {name: cpu[name] - cpu_before[name] for name in cpu}
        told.resident = {name: (resident_before[name], resident[name]) for name in resident}
        return told

    def _read(self) -> tuple[float, dict[str, float], dict[str, int]]:
        cpu = {name: processes.cpu_seconds(pids) for name, pids in self._watch.items()}
        cpu[""] = time.process_time()
        resident = {name: processes.resident_bytes(pids) for name, pids in self._watch.items()}
        return time.perf_counter(), cpu, resident


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
