"""Child programs that never outlive this one, also when it is killed.

A tiny reaper leads a process group; every child is started in that group. The reaper's standard input is a pipe
that only this program holds open: at its end, whatever the reason, the reaper kills the group. Works on Linux and
macOS. Knows nothing of what the children are.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

_REAPER = """
import os, signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.read(0, 1)
os.killpg(0, signal.SIGKILL)
"""


class Children:
    """Starts children; all of them are gone when the `with` block is left, or when this program dies in it."""

    def __init__(self) -> None:
        self._reaper: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._reaper = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-I", "-S", "-c", _REAPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(
        self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `command`, its output appended to `log`, with `env` put over this program's own environment."""
        if self._reaper is None:
            raise RuntimeError("children are started inside `with Children()`")
        with log.open("ab") as output:
            child = subprocess.Popen(  # noqa: S603  the caller's own program
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                process_group=self._reaper.pid,
            )
        self._started.append(child)
        return child

    def close(self) -> None:
        """Kill whatever still runs, and wait until it is gone."""
        reaper, self._reaper = self._reaper, None
        if reaper is None:
            return
        with reaper:  # leaving closes the pipe, which is the signal, and waits
            pass
        for child in self._started:
            child.wait()
        self._started.clear()


def stop(child: subprocess.Popen[bytes], grace: float = 10.0) -> int:
    """Ask a child to end (SIGTERM), kill it after `grace` seconds; gives its exit status (-9: it was killed)."""
    child.send_signal(signal.SIGTERM)
    try:
        return child.wait(grace)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
