"""docs/benchmarks.md out of a run: what is measured and how, the bars, every measurement, and what to make of it."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import bars, plots, suite
from benchmarks.measurements import Measurement, Results

HEAD = """# Benchmarks

This page is made by `python -m benchmarks report` from a run of `make bench`; `benchmarks/results/latest.json` has
every figure of it. `make bench-quick` measures the most important ratios in less than four minutes, and
`make bench ARGS="--only W3"` a single part; a run that was interrupted goes on with `ARGS=--continue`.
"""

HOW = """## How it is measured

- One run starts every server itself, on one core (W11's two workers: on both); the client and Redis share another
  one. The client is a process of its own and the same code for every server: an HTTP/2 client that writes what one
  read caused in one write, sends messages that are made beforehand and looks only at the bytes that hold the number
  of a reply, so that it is the server that is full. Where "grpc.aio" is noted it speaks through that library, for
  latencies as a Python application sees them.
- All that is written in Python runs on the quickest Python of the machine of the same minor version
  (`benchmarks/quickest.py`), Triton's back end, too: distributions and images build theirs with profiles of real
  programs, pyenv by default does not, and then everything takes 10 to 20 % more CPU.
- A server listens on a fresh port, and the run fails if any other process listens there, too. `so_reuseport` is
  off, but for W11's two workers.
- CPU is user and system time from /proc, of the server with all its threads and children, and of Redis; the client
  reads it at the two instants between which it counts. Ratios divide CPU by CPU, so they hold on a machine that is
  busy with other things too, as far as caches and batches let them; latencies do not.
- Each load is measured on the servers of a ratio in turn, several times; a ratio is the median of the turns' ratios.
  Of eight connections and one per stream the worse one counts.
- The store is on a unix socket, append-only file on and rewritten from 1 GB, `appendfsync everysec`, unless it is
  noted otherwise.
- The model is an LSTM of 128 units with 40 inputs and 8 outputs, in all servers; its state is 1 KB.
- The bare echo is a `grpc.aio` stream on uvloop, bytes in and out, that answers each message with as many bytes as a
  reply of ours has: the least that a Python server costs as gRPC comes. For many sessions a message the divisor is its
  single message. The service switches gRPC to its former listener and has gRPC's threads wait for the core (decisions
  0018 and 0021): "tuned echo", below the ceilings, is an echo on the same.
- Open loops send at fixed times; latency counts from the time at which a message was to be sent. At 70 % of capacity
  they last eight times as long as all else, so that the store's rewriting of its append-only file, which holds it up
  for some 60 ms about every 40 s, has its share.
- Baselines are written as one would who wants them to win: bare bytes, uvloop where it can be chosen, one thread of
  ONNX Runtime, no copies that can be avoided. Triton runs the same file in batches in its Python back end (sequence
  batcher `direct`, 200 us of delay, state in memory); its "core" is its C++ process alone, without the back end.
  Triton, MLServer and Ray Serve are started anew for each load: beside sequences of an earlier one that send nothing
  Triton would wait its whole delay for them, which more than doubles the latency of one stream. Only
  Cellwire and the naive Redis server keep the state anywhere but in memory, and only Cellwire advances it exactly
  once.
"""

NOTES = """## Notes

- One stream's ratio of latencies is through `grpc.aio` on both sides; a client that costs less makes it larger.
- The echo is a generator; written with `read()` and `write()` it costs the same within the noise.
- The echo at full load works off several messages a system call, as a full server does; at a lower load it costs
  more.
- A baseline that cannot be installed is skipped with a line, and its ratios are not measured.
- Memory is resident memory, which allocators give back late: figures of a kilobyte or less a session are noise.
- W10 sends on two streams of many sessions, with at most four messages of a session unanswered; each tells a timeout
  of 80 ms, because a reply after 100 ms is of no use to it.
- The echo is measured in the growth, too: part of what a timestep costs more among 4,096 sessions is the transport's.
"""

FEWEST_RUNS = 3
COLUMNS = (
    ("steps_per_second", "steps/s", "{:,.0f}"),
    ("server_us", "server us", "{:.1f}"),
    ("core_us", "core us", "{:.1f}"),
    ("redis_us", "Redis us", "{:.1f}"),
    ("p50_ms", "p50 ms", "{:.2f}"),
    ("p99_ms", "p99 ms", "{:.2f}"),
    ("batch", "batch", "{:.1f}"),
    ("commit", "commit", "{:.1f}"),
    ("store_calls", "store calls", "{:.3f}"),
    ("store_bytes", "store bytes", "{:,.0f}"),
    ("server_busy", "server busy", "{:.2f}"),
    ("rss_grown_kb", "KB grown", "{:,.0f}"),
    ("sessions_per_second", "sessions/s", "{:,.0f}"),
    ("server_us_per_session", "us a session", "{:,.0f}"),
    ("refused", "refused/s", "{:.0f}"),
    ("cpu_us", "CPU us", "{:.1f}"),
    ("requests_per_second", "requests/s", "{:,.0f}"),
    ("resumed", "resumed", "{:.0f}"),
    ("gap_p50_ms", "gap p50 ms", "{:.0f}"),
    ("gap_max_ms", "gap max ms", "{:.0f}"),
    ("capacity", "capacity/s", "{:,.0f}"),
    ("goodput_1x", "goodput 1x", "{:,.0f}"),
    ("goodput_2x", "2x", "{:,.0f}"),
    ("goodput_4x", "4x", "{:,.0f}"),
    ("goodput_4x_regardless", "4x, not listening", "{:,.0f}"),
)


def write(results: Results, page: Path) -> None:
    """The page, and its pictures in a folder beside it."""
    folder = page.with_suffix("")
    pictures = plots.draw(results, folder)
    parts = [HEAD, where(results), verdicts(results)]
    parts += [f"![{picture.stem}]({folder.name}/{picture.name})\n" for picture in pictures]
    parts += [HOW, *(tables(results)), NOTES]
    if results.skipped:
        lines = "".join(f"- {name}: {why}\n" for name, why in results.skipped.items())
        parts.append(f"Not measured in this run:\n\n{lines}")
    page.write_text("\n".join(parts))


def where(results: Results) -> str:
    """The machine and the plan."""
    machine, plan = results.machine, results.settings
    lines = (
        f"Measured {results.at} at commit {machine['commit']}: {machine['cpu']}, {machine['cores']} cores, Linux",
        f"{machine['kernel']}, Python {machine['python']}, grpcio {machine['grpcio']}, ONNX Runtime",
        f"{machine['onnxruntime']}; turns: {plan['runs']}, seconds each: {plan['seconds']}, idle streams:",
        f"{plan['idle_streams']:,}, stored sessions: {plan['stored_sessions']:,}.",
        *(["**Provisional: fewer than three turns.**"] if plan["runs"] < FEWEST_RUNS else []),
    )
    return "\n".join(lines) + "\n"


def verdicts(results: Results) -> str:
    """Each bar, and whether it is met."""
    values = {**results.ratios, **results.figures}
    rows = []
    for bar in (*bars.RATIOS, *bars.FIGURES):
        value, sign = values.get(bar.name), "≥" if bar.at_least else "≤"
        told = "not measured" if value is None else "met" if bar.met(value) else "**not met**"
        unit = f" {bar.unit}" if bar.unit else ""
        beyond = "" if bar.beyond is None else f"{bar.beyond:g}"
        measured = "" if value is None else f"{value:.2f}{unit}"
        rows.append((bar.what, f"`{bar.name}`", measured, f"{sign} {bar.bar:g}{unit}", beyond, told))
    return "## Bars\n\n" + table(("what", "name", "measured", "bar", "beyond", ""), rows)


def tables(results: Results) -> Iterable[str]:
    """One a workload that has measurements: medians of the runs."""
    for workload in suite.WORKLOADS:
        measured = [each for each in results.measurements if each.workload == workload.name]
        if measured:
            yield f"## {workload.name}: {workload.what}\n\n{medians(measured)}"


def medians(measured: Sequence[Measurement]) -> str:
    """A row for each server and case."""
    groups: dict[tuple[object, ...], list[Measurement]] = {}
    for each in measured:
        groups.setdefault((each.server, *each.case.items()), []).append(each)
    names = list(dict.fromkeys(name for each in measured for name in each.case))
    columns = [column for column in COLUMNS if _matters(column[0], measured)]
    rows = []
    for group in groups.values():
        cells = [group[0].server, *(str(group[0].case.get(name, "")) for name in names)]
        for key, _, form in columns:
            values = [each.values[key] for each in group if key in each.values]
            cells.append(form.format(statistics.median(values)) if values else "")
        rows.append(cells)
    return table(["server", *names, *(title for _, title, _ in columns)], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _matters(key: str, measured: Sequence[Measurement]) -> bool:
    """Whether the column says anything in this workload."""
    if key == "core_us":
        return any(each.server == "triton" for each in measured)
    return any(each.values.get(key) for each in measured)
