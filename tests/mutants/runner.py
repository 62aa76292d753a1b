"""Runs tests in a copy of the repository and says how they ended. Knows pytest, not what the tests are about."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.mutants.mutant import STORES, Mutant

TEST_SECONDS = 30
"""After so long pytest-timeout fails a test that hangs."""
RUN_SECONDS = 180.0
"""After so long pytest itself is ended."""
_FAILED = re.compile(r"^FAILED (\S+?::.+?)(?: - (.*))?$", re.MULTILINE)


class Verdict(StrEnum):
    """How tests ended."""

    PASSED = "passed"
    FAILED = "failed"
    """A test did, in its own body."""
    BROKEN = "broken"
    """No test said anything: none was found, or it could not be collected or set up."""
    HUNG = "hung"
    """Not even pytest-timeout ended it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run of pytest."""

    verdict: Verdict
    test: str
    """The node id of the one that failed first."""
    why: str
    """Its error, in one line."""
    seconds: float
    output: str


def copy(root: Path, tree: Path) -> None:
    """Copies what git knows, and what it does not ignore, of a repository as it stands in its work tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().rstrip("\0").split("\0"):
        if (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)


async def run(tree: Path, tests: Sequence[str], store: str, longest: float = RUN_SECONDS) -> Outcome:
    """Runs tests in a copy, on one kind of store, until the first one fails or so many seconds are over."""
    others = " or ".join(each for each in STORES if each != store)
    options = ["-x", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}"]
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", *options, "-k", f"not ({others})", *tests),
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "1000", "PYTEST_ADDOPTS": ""},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        process_group=0,
    )
    try:
        async with asyncio.timeout(longest):
            text, _ = await process.communicate()
    except TimeoutError:
        return Outcome(Verdict.HUNG, "", f"not done after {longest:.0f} s", time.monotonic() - started, "")
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    seconds, output = time.monotonic() - started, text.decode(errors="replace")
    failed = _FAILED.search(output)
    if process.returncode == pytest.ExitCode.OK:
        return Outcome(Verdict.PASSED, "", "", seconds, output)
    if process.returncode == pytest.ExitCode.TESTS_FAILED and failed:
        return Outcome(Verdict.FAILED, failed[1], failed[2] or "", seconds, output)
    return Outcome(Verdict.BROKEN, "", f"pytest's exit status {process.returncode}", seconds, output)


async def run_mutant(mutant: Mutant, original: Path, store: str) -> Outcome:
    """Runs a mutant's tests in a copy of its own, made of a copy in which they pass."""
    with TemporaryDirectory(prefix="mutant-") as directory:
        tree = Path(directory) / "tree"
        await asyncio.to_thread(shutil.copytree, original, tree)
        mutant.apply(tree)
        return await run(tree, mutant.tests, store)
