"""What counts as a catch: a test that failed in its own body, and nothing else."""

import subprocess
from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant, Stale
from tests.mutants.runner import Verdict, copy, run, run_mutant

TESTS = """
import time
import pytest
from code_of_the_test import answer

@pytest.fixture
def broken():
    raise RuntimeError

@pytest.fixture(params=["valkey", "redis"])
def store(request):
    return request.param

def test_answer(): assert answer() == 42
def test_fixture(broken): pass
def test_store(store): assert store == "valkey"

@pytest.mark.timeout(0.2)
def test_hangs(): time.sleep(60)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository with its tests."""
    (tmp_path / "code_of_the_test.py").write_text("def answer():\n    return 42\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_import.py").write_text("import what_is_not_there\n")
    (tmp_path / ".gitignore").write_text("__pycache__\nignored\n")
    (tmp_path / "ignored").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        ("test_it.py::test_hangs", Verdict.FAILED),
        ("test_it.py::test_fixture", Verdict.BROKEN),
        ("test_import.py", Verdict.BROKEN),
    ],
    ids=["timed out", "not set up", "not collected"],
)
async def test_only_a_test_that_fails_in_its_body_says_something(tree: Path, test: str, verdict: Verdict) -> None:
    outcome = await run(tree, [test], "valkey")
    assert outcome.verdict is verdict, outcome.output
    assert outcome.test == (test if verdict is Verdict.FAILED else "")


async def test_a_run_that_does_not_end_is_ended(tree: Path) -> None:
    assert (await run(tree, ["test_it.py"], "valkey", 0.01)).verdict is Verdict.HUNG


async def test_a_mutant_is_caught_in_a_copy_by_what_passes_without_it(tree: Path) -> None:
    tests = ("test_it.py::test_store", "test_it.py::test_answer")
    assert (await run(tree, tests, "valkey")).verdict is Verdict.PASSED
    outcome = await run_mutant(Mutant("m", "", "code_of_the_test.py", "42", "41", tests), tree, "valkey")
    assert (outcome.verdict, outcome.test, outcome.why) == (Verdict.FAILED, tests[1], "assert 41 == 42")
    assert "42" in (tree / "code_of_the_test.py").read_text()


@pytest.mark.parametrize("old", ["43", "4", "answer"], ids=["not there", "there", "a file that is not there"])
def test_a_mutant_whose_text_is_not_there_once_is_stale(tree: Path, old: str) -> None:
    (tree / "twice.py").write_text("44 44")
    path = {"43": "code_of_the_test.py", "4": "twice.py", "answer": "nowhere.py"}[old]
    with pytest.raises(Stale):
        Mutant("m", "", path, old, "", ()).apply(tree)


def test_a_copy_holds_what_is_not_ignored(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    other = tmp_path_factory.mktemp("copy")
    copy(tree, other)
    assert {path.name for path in other.iterdir()} == {path.name for path in tree.iterdir()} - {".git", "ignored"}
