"""The demo as a program: it passes, and nothing outlives it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cellwire.cli.children import Children

DEMO = [sys.executable, "-m", "cellwire.cli", "demo"]


def test_the_demo_survives_the_loss_of_the_replica(models_cache: Path) -> None:
    environment = {**os.environ, "CELLWIRE_MODELS_CACHE": str(models_cache)}
    done = subprocess.run(
        [*DEMO, "--fast", "--json"], capture_output=True, text=True, env=environment, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert report["answered"] == report["timesteps"] == 222
    assert report["each_exactly_once"]
    assert report["difference"] <= 1e-6
    assert report["killed_after_step"] == 111
    assert report["resumed_at_step"] >= 111
    assert report["resumed_on"] != report["killed"]
    assert report["segments"]


def family(pid: int) -> set[int]:
    """The children of a program that are in another process group: the reaper's."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.add(int(entry.name))
    return found


def runs(pid: int) -> bool:
    """Whether a program still runs; one that is dead but not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killing_the_demo_kills_its_children(models_cache: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "CELLWIRE_MODELS_CACHE": str(models_cache), "TMPDIR": "/tmp"}
    demo = subprocess.Popen(DEMO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 60
    while len(children := family(demo.pid)) < 4:  # reaper, store, two replicas
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    demo.send_signal(signal.SIGKILL)
    demo.wait()
    while any(runs(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_children_are_gone_when_their_block_is_left(tmp_path: Path) -> None:
    with Children() as children:
        child = children.start([sys.executable, "-c", "import time; time.sleep(1000)"], log=tmp_path / "log")
        assert child.poll() is None
    assert child.poll() == -signal.SIGKILL
