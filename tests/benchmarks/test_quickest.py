"""Which Python measures."""

import sys
from pathlib import Path

import pytest

from benchmarks import quickest

ME = Path(sys.executable)


class Make:
    """Makes programs that say how long the work took them, or fail."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, name: str, does: str) -> Path:
        path = self._directory / name
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
        return path


@pytest.fixture
def python(tmp_path: Path) -> Make:
    return Make(tmp_path)


def test_a_python_tells_how_long_the_work_takes_it() -> None:
    assert 0 < (quickest.seconds(ME) or 0) < 60


def test_one_of_another_version_or_that_is_not_there_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quickest.seconds(Path("/nowhere/python3")) is None
    monkeypatch.setattr(quickest, "MINOR", "2.7")
    assert quickest.seconds(ME) is None


def test_the_quicker_one_is_chosen(python: Make) -> None:
    slow, quick = python("slow", "echo 1.0"), python("quick", "echo 0.8")
    assert quickest.quickest((slow, quick)) == quick
    assert quickest.quickest((quick, slow)) == quick


def test_the_first_stays_where_the_difference_may_be_noise(python: Make) -> None:
    assert quickest.quickest((first := python("first", "echo 1.0"), python("second", "echo 0.97"))) == first


def test_one_that_makes_no_environments_is_passed_over(python: Make) -> None:
    broken, sound = python("broken", "exit 1"), python("sound", "echo 1.0")
    assert quickest.quickest((broken, sound)) == sound
    assert quickest.quickest((sound, broken)) == sound
    assert quickest.quickest((broken,)) == broken
