"""The servers that are measured: each on a core of its own, found by the port that it tells."""

import asyncio
import re
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from cellwire.cli.children import Children, stop

SERVER_CORE, CLIENT_CORE = min(processes.ALLOWED), max(processes.ALLOWED)
"""The same one where there is no other."""
START_SECONDS = 90.0
STOP_SECONDS = 5.0


class DidNotStart(Exception):
    """A server ended or did not answer in time; the text has the end of its log."""


@dataclass(frozen=True)
class Server:
    """One that answers."""

    name: str
    dialect: str
    target: str
    pid: int
    admin_port: int = 0
    """Where its metrics are; 0: nowhere."""
    core_pid: int = 0
    """The process in it whose CPU counts by itself, too; 0: none."""

    def pids(self) -> list[int]:
        """Its processes."""
        return processes.family(self.pid)

    def metrics(self) -> dict[str, float]:
        """Its counters and sums, summed over their labels; none where it has no admin port."""
        if not self.admin_port:
            return {}
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics") as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for name, value in re.findall(r"^(\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
            found[name] = found.get(name, 0.0) + float(value)
        return found


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as attempt:
        attempt.bind(("127.0.0.1", 0))
        return int(attempt.getsockname()[1])


@asynccontextmanager
async def started(
    children: Children,
    name: str,
    dialect: str,
    command: Sequence[str | Path],
    log: Path,
    environment: Mapping[str, str],
    *,
    port: int = 0,
    admin_port: int = 0,
    cores: Sequence[int] = (SERVER_CORE,),
) -> AsyncIterator[Server]:
    """The server, until the block is left.

    With `port` it is there when it listens; else it writes its port to the file that CELLWIRE_PORT_FILE names.

    Raises:
        DidNotStart: or somebody else listens on its port.
    """
    port_file = log.with_suffix(".port")
    port_file.unlink(missing_ok=True)
    with processes.on_cores(*cores):
        child = children.start(command, log=log, env={**environment, "CELLWIRE_PORT_FILE": str(port_file)})
    try:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not (_listening(port) if port else _told(port_file)):
            if child.poll() is not None or asyncio.get_running_loop().time() > deadline:
                raise DidNotStart(f"{name} did not start: {_last_lines(log)}")
            await asyncio.sleep(0.1)
        port = port or int(port_file.read_text())
        family = processes.family(child.pid)
        if not processes.listens_alone(port, family):
            raise DidNotStart(f"{name}: somebody else listens on its port, too")
        yield Server(name, dialect, f"127.0.0.1:{port}", child.pid, admin_port, child.pid)
    finally:
        await asyncio.to_thread(stop, child, STOP_SECONDS)


def module(name: str) -> list[str | Path]:
    """The command line of a module of this environment."""
    return [sys.executable, "-m", name]


def _told(port_file: Path) -> bool:
    return port_file.exists() and port_file.read_text().endswith("\n")


def _listening(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def _last_lines(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:] if log.exists() else "no log"
