"""What a soak found: figures, each with its bar, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `least` and `most` are its bars, where it has them."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it misses a bar."""
        too_little = self.least is not None and self.value < self.least
        return too_little or (self.most is not None and self.value > self.most)

    @property
    def bar(self) -> str:
        """As text."""
        if self.least is not None:
            return f"at least {_number(self.least)}"
        return f"at most {_number(self.most)}" if self.most is not None else ""


def show(console: Console, figures: Sequence[Figure]) -> None:
    """The figures as a table."""
    table = Table(box=None, header_style="bold")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("bar", justify="right")
    table.add_column("")
    for figure in figures:
        verdict = "" if not figure.bar else "[red]over the bar[/red]" if figure.is_over else "[green]kept[/green]"
        unit = f" {figure.unit}" if figure.unit else ""
        table.add_row(figure.name, f"{_number(figure.value)}{unit}", figure.bar and f"{figure.bar}{unit}", verdict)
    console.print(table)


def write(path: Path, seed: int, minutes: float, figures: Sequence[Figure]) -> None:
    """The figures as JSON."""
    found = [{**asdict(figure), "kept": not figure.is_over} for figure in figures]
    path.write_text(json.dumps({"seed": seed, "minutes": round(minutes, 1), "figures": found}, indent=2) + "\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
