"""What is lost when, and is it said: each store setting against each fault, measured on real processes.

    python -m tests.faults.promise --runs 3 --json promise.json

Sessions of the client library stream at a steady pace while the fault comes. For each run it counts the timesteps that
had been acknowledged and that the store lost, whether every one of those losses was noticed (a replay from the client's
own inputs, or an error), outputs that are not those of an uninterrupted run (double or silently lost advances), and the
longest time that a client was without an answer.

Exit status: 0 the promise holds; 1 a loss was not said, a timestep advanced twice, or something was lost where nothing
may be; 2 wrong usage.
"""

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cellwire.cli.children import Children
from cellwire.client import Client
from cellwire.errors import CellwireError, Position, SessionExpiredOrLost, StateRegressed, StoreLost
from cellwire.session import Session
from models.cells import checked
from tests.faults.fleet import Fleet
from tests.faults.history import History
from tests.faults.stores import Pair
from tests.harness import Place, small_models

SESSIONS = 16
PAUSE = 0.01
"""Seconds between two timesteps of a session."""
BEFORE, AFTER = 120, 60
"""Timesteps of a session before the fault, and after it."""
LAG_SECONDS = 0.5
"""How far the replica of the store is behind when it is promoted."""
POWER_SECONDS = 1.0
"""What a power loss takes from the file of a store that syncs once a second."""

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Setting:
    """How the store keeps what it is given."""

    name: str
    fsync: str = "always"
    options: Mapping[str, str] = field(default_factory=dict)
    replicas: int = 0

    @property
    def persists(self) -> bool:
        return self.options.get("appendonly", "yes") == "yes"


SETTINGS = (
    Setting("no persistence", options={"appendonly": "no"}),
    Setting("AOF everysec", "everysec"),
    Setting("AOF always"),
    Setting("AOF always, replicas 1, min-replicas-to-write 1", replicas=1),
)


@dataclass
class Seen:
    """What one run showed."""

    setting: str
    fault: str
    acknowledged: int = 0
    lost: int = 0
    """Acknowledged timesteps that the store lost."""
    replayed: int = 0
    """Of those: advanced again by the client from its own inputs."""
    surfaced: int = 0
    """Of those: told to the application."""
    sessions_lost: int = 0
    wrong: int = 0
    """Outputs that are not those of an uninterrupted run: advanced twice, or lost without a word."""
    gap: float = 0.0
    """Seconds; the longest of any client."""
    gave_up: str = ""
    """Why the library told an application of an error that no loss explains."""


Fault = Callable[[Fleet, Pair, Setting], Awaitable[None]]


async def kill_replica(fleet: Fleet, pair: Pair, setting: Setting) -> None:
    """kill -9 of a replica of ours"""
    await fleet.slots[0].kill()
    await fleet.start(fleet.slots[0])


async def kill_store(fleet: Fleet, pair: Pair, setting: Setting) -> None:
    """kill -9 of Redis, restart"""
    await pair.crash()


async def cut_power(fleet: Fleet, pair: Pair, setting: Setting) -> None:
    """power loss under Redis (modelled: the file loses what was not synced)"""
    sizes = {path: path.stat().st_size for path in pair.files()}
    await asyncio.sleep(POWER_SECONDS)
    await pair.crash(sizes if setting.fsync == "everysec" else None)


async def fail_over(fleet: Fleet, pair: Pair, setting: Setting) -> None:
    """failover to a replica of Redis that lags"""
    pair.lag()
    await asyncio.sleep(LAG_SECONDS)
    await pair.fail_over()
    fleet.move_store(pair.url)
    if setting.replicas:  # else nothing could be written any more
        await pair.recover()


FAULTS: tuple[Fault, ...] = (kill_replica, kill_store, cut_power, fail_over)


async def measure(setting: Setting, fault: Fault, models: Path, directory: Path) -> Seen:
    """One run."""
    seen = Seen(setting.name, str(fault.__doc__))
    with Children() as children, History() as history:
        async with Pair(children, fsync=setting.fsync, options=setting.options) as pair:
            if setting.replicas:
                await pair.ask("CONFIG", "SET", "min-replicas-to-write", 1)
                await pair.ask("CONFIG", "SET", "min-replicas-max-lag", 10)
            place = Place(pair.url, "promise", (models,))
            settings: dict[str, Any] = {
                "log_level": "WARNING",
                "ephemeral_store": not setting.persists,
                "replicas": setting.replicas,
            }
            settings |= {"load": "checker", "store_timeout": 0.5}
            async with (
                Fleet(children, place, directory, history, count=2, **settings) as fleet,
                Client(fleet.fronts) as client,
            ):
                struck = asyncio.Event()
                halfway = asyncio.Barrier(SESSIONS + 1)
                async with asyncio.TaskGroup() as running:
                    for at in range(SESSIONS):
                        running.create_task(_application(client, at, halfway, struck, seen))
                    await halfway.wait()
                    await fault(fleet, pair, setting)
                    struck.set()
    return seen


async def _application(client: Client, at: int, halfway: asyncio.Barrier, struck: asyncio.Event, seen: Seen) -> None:
    """Streams until so many timesteps after the fault were answered, or the session is said to be lost."""
    values = np.random.default_rng(at).integers(0, 2**31 - 1, 1 << 16).tolist()
    answered: list[int] = []
    since, clock = 0.0, asyncio.get_running_loop().time
    session: Session | None = None
    try:
        async with client.session(f"s{at}", model="checker", keep=True) as session:
            left = AFTER
            while left:
                reply = await session.step([values[len(answered)]])
                now, last, since = clock(), since, clock()
                answered.append(int(reply.outputs["y"][0]))
                if len(answered) == BEFORE:
                    await halfway.wait()
                elif len(answered) > BEFORE:
                    seen.gap = max(seen.gap, now - last)
                left -= struck.is_set()
                await asyncio.sleep(PAUSE)
    except (StateRegressed, StoreLost, SessionExpiredOrLost) as error:
        found = error.position.step if isinstance(error.position, Position) else 0
        seen.sessions_lost += 1
        seen.lost += len(answered) - found
        seen.surfaced += len(answered) - found
    except CellwireError as error:
        if not struck.is_set():
            raise
        seen.gave_up = str(error)
    seen.acknowledged += len(answered)
    seen.wrong += sum(ours != theirs for ours, theirs in zip(answered, checked(values[: len(answered)]), strict=True))
    for resumption in session.resumptions if session else ():
        if resumption.regressed:
            seen.lost += resumption.step - resumption.found_step
            seen.replayed += resumption.replayed


def broken(seen: Seen) -> str | None:
    """What in a run breaks the promise."""
    if seen.gave_up:
        return f"an application was told: {seen.gave_up}"
    if seen.wrong:
        return f"{seen.wrong} outputs are not those of an uninterrupted run"
    if seen.lost > seen.replayed + seen.surfaced:
        return f"{seen.lost - seen.replayed - seen.surfaced} lost timesteps were not said"
    keeps = seen.setting.startswith("AOF always") and ("failover" not in seen.fault or "replicas" in seen.setting)
    if seen.lost and (keeps or "replica of ours" in seen.fault):
        return f"{seen.lost} timesteps were lost where nothing may be"
    return None


def _table(runs: list[Seen]) -> Table:
    table = Table(title="What is lost when, and is it said")
    for name in ("store", "fault", "acknowledged", "lost", "replayed", "surfaced", "wrong", "longest gap", ""):
        table.add_column(name, justify="left" if name in ("store", "fault", "") else "right")
    for seen in runs:
        counts = (seen.acknowledged, seen.lost, seen.replayed, seen.surfaced, seen.wrong)
        verdict = broken(seen) or "kept"
        table.add_row(seen.setting, seen.fault, *map(str, counts), f"{seen.gap:.2f} s", verdict)
    return table


async def _measure_all(runs: int) -> list[Seen]:
    results: list[Seen] = []
    with tempfile.TemporaryDirectory(prefix="cw-") as directory, Progress(console=Console(stderr=True)) as progress:
        models = small_models(Path(directory) / "models")
        task = progress.add_task("faults", total=runs * len(SETTINGS) * len(FAULTS))
        for setting in SETTINGS:
            for fault in FAULTS:
                for run in range(runs):
                    logs = Path(directory) / f"{len(results)}-{run}"
                    logs.mkdir()
                    results.append(await measure(setting, fault, models, logs))
                    progress.advance(task)
    return results


@app.command(epilog="Example: python -m tests.faults.promise --runs 3 --json promise.json")
def main(
    runs: Annotated[int, typer.Option(help="Runs of each pair of setting and fault.", min=1)] = 1,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write every figure there.")] = None,
) -> None:
    """Measure what each store setting loses under each fault, and whether it is said."""
    results = asyncio.run(_measure_all(runs))
    Console(width=160).print(_table(results))
    if json_path:
        json_path.write_text(json.dumps([asdict(seen) | {"broken": broken(seen)} for seen in results], indent=1) + "\n")
    raise typer.Exit(1 if any(map(broken, results)) else 0)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        app()
