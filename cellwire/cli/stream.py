"""`cellwire stream`: a file or standard input through a session."""

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import IO, Annotated, Any, Literal, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cellwire.cli.exits import Exit, errors, extra, leave, told
from cellwire.cli.sources import FORMATS, BadSource, Format, Source, open_source, paced
from cellwire.cli.views import save_plot, sparkline
from cellwire.client import Client
from cellwire.errors import CellwireError, Remedy, Unavailable
from cellwire.frames import drawn
from cellwire.replies import Model, Reply
from cellwire.session import Session
from cellwire.tensors import Frame
from cellwire.v1 import session_service_pb2

View = Literal["table", "ndjson", "plot"]
_MOST_PLOTTED = 8
_LONGEST_CLOSE = 2.0
"""Seconds that a stream which was broken off waits for its session to be closed."""


def stream(
    file: Annotated[str, typer.Argument(help="WAV, PCM, CSV or NDJSON; - is standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model's name.")],
    target: Annotated[
        list[str], typer.Option("--target", "-t", help="A replica; may be given again.", envvar="CELLWIRE_TARGET")
    ] = ["localhost:50051"],  # noqa: B006  typer copies it
    form: Annotated[Format | None, typer.Option("--format", help="If the file's name does not tell.")] = None,
    columns: Annotated[str, typer.Option(help="CSV columns, by name or number from 1, with commas.")] = "",
    rate: Annotated[float | None, typer.Option(help="Timesteps a second (WAV: its own).", min=0.001)] = None,
    sample_rate: Annotated[int, typer.Option(help="Of raw PCM, samples a second.")] = 16000,
    fast: Annotated[bool, typer.Option("--fast", help="Not in real time.")] = False,
    timesteps: Annotated[int, typer.Option("-T", "--timesteps", help="Timesteps a message, 0: one.", min=0)] = 0,
    to: Annotated[
        View,
        typer.Option("--to", help="How the replies are shown; plot is a PNG with the extra plot, else a sparkline."),
    ] = "table",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The picture's file; by default the source's name with .png, here."),
    ] = None,
    session_id: Annotated[str | None, typer.Option(help="Its id; a new one by default.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the state at the end.")] = False,
    give_up_after: Annotated[float, typer.Option(help="Seconds to try to reach a replica.")] = 30.0,
) -> None:
    """Stream a file through a model, a message a timestep, and show the replies.

    WAV is mono 16-bit; its frame length is what the model's input tells. CSV columns make the input vector.
    NDJSON has a list, or an object input name -> list, in each line. Replies go to standard output, progress to
    standard error.

    Example: `cellwire stream speech.wav --model silero_vad --to plot`
    """
    chosen = form or FORMATS.get(Path(file).suffix.lower())
    if chosen is None:
        raise leave(Exit.USAGE, f"--format is needed: the name {file} does not tell it")
    if file != "-" and not Path(file).is_file():
        raise leave(Exit.USAGE, f"no file {file}")
    if to == "plot" and output:
        with extra("plot"):
            importlib.import_module("matplotlib")
    replies = _Replies(to)

    async def run() -> None:
        async with Client(target, give_up_after=give_up_after) as client:
            facts = await client.model(model)
            with _opened(file) as (raw, text):
                names = [name for name in columns.split(",") if name]
                source = open_source(raw, text, chosen, facts, names, sample_rate)
                pace = None if fast else rate or source.rate
                async with aclosing(drawn(source.frames)) as waiting:
                    first = await anext(waiting, None)
                    if first is None:
                        raise BadSource("nothing to stream")
                    session = client.session(session_id or f"cli-{token_hex(6)}", model=model, keep=keep)
                    async with (
                        _ended(client, session, keep),
                        aclosing(_behind(first, waiting)) as all_frames,
                        aclosing(paced(all_frames, pace)) as frames,
                    ):
                        await _follow(session, frames, timesteps, source, replies)
            replies.finish(facts, output or Path(f"{Path(file).stem if file != '-' else 'stdin'}.png"), source.rate)

    with told(*target):
        try:
            asyncio.run(run())
        except (BadSource, ValueError, TypeError) as error:
            raise leave(Exit.FAILED, str(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


async def _behind(first: Frame, rest: AsyncGenerator[Frame, None]) -> AsyncGenerator[Frame, None]:
    yield first
    async for frame in rest:
        yield frame


@asynccontextmanager
async def _ended(client: Client, session: Session, keep: bool) -> AsyncGenerator[None, None]:
    """Enters the session; one that is broken off without `keep` is closed if that can be done at once, else told."""
    is_open = False
    try:
        async with session:
            is_open = True
            yield
    except (asyncio.CancelledError, Exception) as error:
        # one that another holder took, or that is gone, is not ours to close
        of_session = isinstance(error, CellwireError) and error.remedy is not Remedy.SKIP
        if not is_open or (of_session and not isinstance(error, Unavailable)):
            raise
        if keep or of_session or not await _closed(client, session.session_id):
            errors.print(
                f"session {session.session_id} is kept, its replies were shown to step {session.last_step}; "
                f"resume with --session-id {session.session_id}"
            )
        raise


async def _closed(client: Client, session_id: str) -> bool:
    request = session_service_pb2.CloseSessionRequest(session_id=session_id)
    try:
        async with asyncio.timeout(_LONGEST_CLOSE):
            await client.call(lambda replica: replica.sessions.CloseSession(request, timeout=_LONGEST_CLOSE))
    except (CellwireError, TimeoutError):
        return False
    return True


async def _follow(
    session: Session, frames: AsyncGenerator[Frame, None], timesteps: int, source: Source, replies: "_Replies"
) -> None:
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=errors, disable=not errors.is_terminal or (replies.view == "table" and sys.stdout.isatty()),
    ) as progress:  # fmt: skip
        rate = f" {source.sample_rate} Hz" if source.sample_rate else ""
        task = progress.add_task(session.session_id + rate, total=source.total)
        async with aclosing(session.stream(frames, timesteps=timesteps)) as stream:
            async for reply in stream:
                replies.show(reply)
                progress.update(task, completed=reply.step)
    for change in session.resumptions:
        errors.print(f"resumed on {change.target} at timestep {change.found_step}: {change.reason}")


class _Replies:
    """Shows replies one by one, or keeps their numbers for a picture."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._series: dict[str, list[float]] = {}
        self._began = False

    def show(self, reply: Reply) -> None:
        if self.view == "ndjson":
            outputs = {name: array.tolist() for name, array in reply.outputs.items()}
            line: dict[str, Any] = {"step": reply.step, "outputs": outputs, "replayed": reply.replayed}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        elif self.view == "table":
            self._row(reply)
        else:
            self._keep(reply)

    def finish(self, model: Model, path: Path, rate: float | None) -> None:
        if self.view != "plot":
            return
        try:
            save_plot(self._series, path, 1 / rate if rate else None, f"{model.name} {model.version}")
        except ImportError:
            console = Console(markup=False, emoji=False)
            for name, values in self._series.items():
                console.print(f"{name} {sparkline(values, console.width - len(name) - 1)}", highlight=False)
            return
        typer.echo(str(path))

    def _row(self, reply: Reply) -> None:
        if not self._began:
            typer.echo("  ".join([f"{'step':>8}", *(f"{name:<32}" for name in reply.outputs)]).rstrip())
            self._began = True
        cells = [" ".join(f"{float(number):.4g}" for number in a.flat[:_MOST_PLOTTED]) for a in reply.outputs.values()]
        typer.echo("  ".join([f"{reply.step:>8}", *(f"{cell:<32}" for cell in cells)]).rstrip())

    def _keep(self, reply: Reply) -> None:
        for name, array in reply.outputs.items():
            for place, number in enumerate(array.flat[:_MOST_PLOTTED]):
                label = name if array.size == 1 else f"{name}[{place}]"
                self._series.setdefault(label, []).append(float(number))


@contextmanager
def _opened(file: str) -> Iterator[tuple[IO[bytes], TextIO]]:
    """The file as bytes and as text; standard input stays open."""
    if file == "-":
        yield sys.stdin.buffer, sys.stdin
        return
    with Path(file).open("rb") as raw, Path(file).open(encoding="utf-8", newline="", errors="replace") as text:
        yield raw, text
