"""What replies look like to a person: sparklines, speech segments, pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 60, low: float | None = None, high: float | None = None) -> str:
    """One line of at most `width` bars, each the mean of its share of the values; scaled from `low` to `high`."""
    numbers = np.nan_to_num(np.asarray(values, dtype=np.float64))
    if not len(numbers):
        return ""
    means = np.array([part.mean() for part in np.array_split(numbers, min(width, len(numbers)))])
    low = float(means.min()) if low is None else low
    span = (float(means.max()) if high is None else high) - low
    places = np.clip((means - low) / span if span > 0 else means * 0, 0, 1) * (len(_BARS) - 1)
    return "".join(_BARS[round(place)] for place in places)


def segments(
    probabilities: Sequence[float], frame_seconds: float, threshold: float = 0.5, shortest_gap: float = 0.1
) -> list[tuple[float, float]]:
    """Where the probability is above the threshold, as (start, end) in seconds; shorter gaps do not split."""
    found: list[tuple[float, float]] = []
    for place, probability in enumerate(probabilities):
        if probability <= threshold:
            continue
        start, end = place * frame_seconds, (place + 1) * frame_seconds
        if found and start - found[-1][1] < shortest_gap:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def save_plot(series: dict[str, list[float]], path: Path, frame_seconds: float | None, title: str) -> None:
    """A PNG of each series over time. ImportError without the extra `plot`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, values in series.items():
        axes.plot(np.arange(1, len(values) + 1) * (frame_seconds or 1), values, label=name, linewidth=1)
    axes.set_xlabel("seconds" if frame_seconds else "timestep")
    axes.set_title(title)
    axes.legend(loc="upper right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
