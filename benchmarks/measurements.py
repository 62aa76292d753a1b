"""What was measured: a list of measurements, looked up by what they measured; read from and written to JSON.

Knows no workload and no bar.
"""

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

Case = dict[str, int | float | str]


@dataclass(frozen=True)
class Measurement:
    """One server under one load, once."""

    workload: str
    server: str
    case: Case
    run: int
    values: dict[str, float]


@dataclass
class Results:
    """Of one run of the suite."""

    at: str = ""
    machine: dict[str, str | int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Why, by workload or baseline."""
    done: list[str] = field(default_factory=list)
    """Workloads that were measured whole."""
    measurements: list[Measurement] = field(default_factory=list)

    def add(self, workload: str, server: str, run: int, case: Case, **values: float) -> None:
        """One more measurement."""
        rounded = {name: float(f"{value:.5g}") for name, value in values.items()}
        self.measurements.append(Measurement(workload, server, case, run, rounded))

    def of(self, workload: str, server: str, **case: int | float | str) -> Iterator[Measurement]:
        """Those whose case agrees in what is given."""
        for each in self.measurements:
            if (each.workload, each.server) == (workload, server) and case.items() <= each.case.items():
                yield each

    def median(self, workload: str, server: str, value: str, **case: int | float | str) -> float | None:
        """Of the runs; None: not measured."""
        found = [each.values[value] for each in self.of(workload, server, **case) if value in each.values]
        return statistics.median(found) if found else None

    def forget(self, workload: str) -> None:
        """Drops what an unfinished or earlier run of the workload left."""
        self.measurements = [each for each in self.measurements if each.workload != workload]
        self.skipped = {name: why for name, why in self.skipped.items() if name.partition(" ")[0] != workload}
        self.done = [name for name in self.done if name != workload]

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """From JSON that `write` wrote."""
        values: dict[str, Any] = json.loads(path.read_text())
        return cls(**{**values, "measurements": [Measurement(**each) for each in values["measurements"]]})
