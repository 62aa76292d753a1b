"""What processes cost, read from /proc: CPU and resident memory, of a process or of all that it started."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ALLOWED = os.sched_getaffinity(0)
"""The cores of this program when it began."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LISTENS = "0A"


def family(pid: int) -> list[int]:
    """The process and its descendants; none if it is gone."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    members = [pid]
    for task in tasks:
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                members += family(int(child))
    return members


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes, all their threads."""
    return sum(_ticks(pid) for pid in pids) / _TICKS


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE for pid in pids)


@contextmanager
def on_cores(*cores: int) -> Iterator[None]:
    """What is started within runs on these cores only, with all its threads."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)
        yield
    finally:
        os.sched_setaffinity(0, before)


def listens_alone(port: int, pids: Iterable[int]) -> bool:
    """Whether these processes, and no others, listen on the TCP port."""
    listening = {
        fields[9]
        for table in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port
    }
    theirs = {inode for pid in pids for inode in _sockets(pid)}
    return bool(listening) and listening <= theirs


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[11]) + int(fields[12])


def _sockets(pid: int) -> Iterator[str]:
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            yield target[len("socket:[") : -1]
