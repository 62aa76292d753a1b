"""Pictures of a run, small enough to be committed."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks import bars
from benchmarks.measurements import Results

SIZE, DPI = (7.0, 3.6), 80
OURS, OTHERS, STORE = "#1f6fb4", "#9a9a9a", "#d9822b"


def draw(results: Results, folder: Path) -> list[Path]:
    """Those for which there are measurements, as PNG."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, plot in PLOTS.items():
        figure, axes = plt.subplots(figsize=SIZE, dpi=DPI, layout="constrained")
        if plot(results, axes):
            axes.spines[["top", "right"]].set_visible(False)
            drawn.append(folder / f"{name}.png")
            figure.savefig(drawn[-1], metadata={"Software": None})
        plt.close(figure)
    return drawn


def servers(results: Results, axes: Axes) -> bool:
    """CPU a timestep of each server, Redis's on top."""
    rows = []
    for streams in (32, 128):
        for workload, server, title in (
            ("W1", "echo", "bare echo"),
            ("W1", "cellwire", "Cellwire"),
            ("baselines", "triton", "Triton"),
            ("baselines", "naive memory", "naive, in memory"),
            ("baselines", "naive redis", "naive, Redis"),
            ("baselines", "mlserver", "MLServer"),
        ):
            case = {"streams": streams, "connections": 8}
            cpu = results.median(workload, server, "server_us", **case)
            redis = results.median(workload, server, "redis_us", **case)
            if cpu is not None and redis is not None:
                rows.append((f"{title}, {streams}", cpu, redis, OURS if server == "cellwire" else OTHERS))
    for at, (_, cpu, redis, colour) in enumerate(reversed(rows)):
        axes.barh(at, cpu, color=colour)
        axes.barh(at, redis, left=cpu, color=STORE)
    axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)], fontsize=8)
    axes.set_xlabel("microseconds of CPU a timestep (orange: Redis), 8 connections")
    return bool(rows)


def verdicts(results: Results, axes: Axes) -> bool:
    """Each ratio as a part of its bar."""
    told = results.ratios
    rows = [(bar.name, told[bar.name] / bar.bar) for bar in reversed(bars.RATIOS) if bar.name in told]
    axes.barh([name for name, _ in rows], [part for _, part in rows], color=OURS)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.tick_params("y", labelsize=8)
    axes.set_xlabel("measured, as a part of its bar (1: on the bar; less is better)")
    return bool(rows)


def latencies(results: Results, axes: Axes) -> bool:
    """Open loop: percentiles over the offered load."""
    percents = [each for each in (25, 50, 70, 90) if results.median("W2", "cellwire", "p99_ms", percent=each)]
    if not percents:
        return False
    for value, style in (("p50_ms", "o-"), ("p99_ms", "s--")):
        found = [results.median("W2", "cellwire", value, percent=percent) or 0.0 for percent in percents]
        axes.plot(percents, found, style, color=OURS, label=value.removesuffix("_ms"))
    axes.axhline(10.0, color="black", linewidth=1, linestyle=":")
    axes.set(xlabel="offered load, % of capacity", ylabel="ms from the intended send", ylim=(0, None))
    axes.legend(frameon=False)
    return True


def messages(results: Results, axes: Axes) -> bool:
    """CPU a timestep as messages carry more of them."""
    for workload, key, title, style in (
        ("W3", "sessions", "sessions a message", "o-"),
        ("W4", "timesteps", "timesteps a message", "s--"),
    ):
        counts = [each for each in (1, 8, 32, 128) if results.median(workload, "cellwire", "server_us", **{key: each})]
        if counts:
            found = [results.median(workload, "cellwire", "server_us", **{key: each}) or 0.0 for each in counts]
            axes.plot(counts, found, style, label=title, color=OURS)
    if not axes.lines:
        return False
    axes.set(xscale="log", yscale="log", xlabel="a message", ylabel="microseconds of CPU a timestep")
    axes.set_xticks([1, 8, 32, 128], ["1", "8", "32", "128"])
    axes.legend(frameon=False)
    return True


PLOTS: dict[str, Callable[[Results, Axes], bool]] = {
    "bars": verdicts,
    "cpu": servers,
    "latency": latencies,
    "messages": messages,
}
