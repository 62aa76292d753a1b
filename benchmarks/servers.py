"""The servers that are measured: each a process of its own on a core of its own, found by the port that it tells."""

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cellwire.cli.children import Children

SERVER_CORE, CLIENT_CORE = 0, 1
START_SECONDS = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """One that answers."""

    target: str
    pid: int

    def cpu_seconds(self) -> float:
        """Of the process and of all that it started, user and system."""
        return sum(_ticks(pid) for pid in family(self.pid)) / TICKS


async def start(
    children: Children, command: list[str], directory: Path, name: str, environment: Mapping[str, str] | None = None
) -> Server:
    """The server, pinned to its core; it writes its port to the file that CELLWIRE_PORT_FILE names."""
    port_file, log = directory / f"{name}.port", directory / f"{name}.log"
    port_file.unlink(missing_ok=True)
    settings = {**(environment or {}), "CELLWIRE_PORT_FILE": str(port_file)}
    child = children.start([sys.executable, "-m", *command], log=log, env=settings)
    pin(child.pid, SERVER_CORE)
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while not (port_file.exists() and port_file.read_text().endswith("\n")):
        if child.poll() is not None or asyncio.get_running_loop().time() > deadline:
            raise RuntimeError(f"{name} did not start:\n{log.read_text()[-2000:]}")
        await asyncio.sleep(0.05)
    return Server(f"127.0.0.1:{int(port_file.read_text())}", child.pid)


def pin(pid: int, core: int) -> None:
    """All threads of the process run on this core only, where the machine has more than one."""
    if (os.cpu_count() or 1) > 1:
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), {core})


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            found += family(int(child))
    return found


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
