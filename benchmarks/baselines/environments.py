"""Environments of the baselines, each of its own, never that of the project; made on request from pinned versions."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("triton", "mlserver", "ray")
INSTALL_SECONDS = 600


class NotHad(Exception):
    """A baseline cannot be installed here; the text says why, in one line."""


def installed(name: str) -> Path | None:
    """Its environment, if it is there whole and of this Python."""
    environment = _environment(name)
    whole = environment / "whole"
    return environment if whole.exists() and whole.read_text() == sys.version else None


def install(name: str) -> Path:
    """Makes its environment, if it is not there.

    Raises:
        NotHad: the packages cannot be had, or not for this machine.
    """
    environment = _environment(name)
    if found := installed(name):
        return found
    requirements = ROOT / "requirements" / f"baseline-{name}.txt"
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    command: list[str | Path] = [
        environment / "bin" / "python",
        "-m",
        "pip",
        "-qq",
        "--disable-pip-version-check",
        "install",
    ]
    command += ["--no-input", "--only-binary", ":all:", "--require-hashes", "-r", requirements]
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NotHad("its installation did not end in time") from None
    if made.returncode:
        last = next((line for line in reversed(made.stderr.splitlines()) if line.startswith("ERROR")), "unknown")
        raise NotHad(last.removeprefix("ERROR: "))
    (environment / "whole").write_text(sys.version)
    return environment


def _environment(name: str) -> Path:
    return ROOT / "build" / "baselines" / name
