"""The image: what it is built from, and how it runs."""

import importlib.util
import json
import re
from fnmatch import fnmatch
from pathlib import Path

Instructions = list[tuple[str, str]]


def only(dockerfile: Instructions, word: str) -> str:
    found = [rest for instruction, rest in dockerfile if instruction == word]
    assert len(found) == 1, word
    return found[0]


def test_both_stages_take_the_base_that_can_be_exchanged(dockerfile: Instructions) -> None:
    assert [rest for word, rest in dockerfile if word == "FROM"] == ["${BASE} AS build", "${BASE}"]


def test_dependencies_come_by_hash_and_the_project_fetches_nothing(dockerfile: Instructions) -> None:
    installs = [rest for word, rest in dockerfile if word == "RUN" and "pip install" in rest]
    assert len(installs) == 2
    assert "--require-hashes -r requirements/${LOCK}.txt" in installs[0]
    assert {"--no-deps", "--no-index", "--no-build-isolation"} <= set(installs[1].split())


def test_the_lock_is_the_cpus_or_the_one_with_cuda(dockerfile: Instructions, root: Path) -> None:
    assert ("ARG", "LOCK=run") in dockerfile
    for lock, runtime in (("run", "onnxruntime"), ("gpu", "onnxruntime-gpu")):
        pinned = re.findall(r"^(onnxruntime\S*)==", (root / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE)
        assert pinned == [runtime]


def test_what_is_copied_exists_and_is_in_the_build_context(dockerfile: Instructions, root: Path) -> None:
    rules = (root / ".dockerignore").read_text().splitlines()
    allowed = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert "*" in rules
    for word, rest in dockerfile:
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (root / source).exists(), source
                assert any(fnmatch(source, rule) for rule in allowed), source


def test_it_runs_as_a_numbered_user_and_stops_by_sigterm(dockerfile: Instructions) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", only(dockerfile, "USER"))
    assert only(dockerfile, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(only(dockerfile, "ENTRYPOINT")) == ["cellwire"]
    assert json.loads(only(dockerfile, "CMD")) == ["serve"]


def test_the_health_check_needs_no_shell(dockerfile: Instructions) -> None:
    program = json.loads(only(dockerfile, "HEALTHCHECK").partition("CMD ")[2])
    assert program[:2] == ["python", "-m"]
    assert importlib.util.find_spec(program[2])


def test_the_image_does_not_decide_that_plaintext_is_fine(image_environment: dict[str, str]) -> None:
    assert image_environment["CELLWIRE_HOST"] == "0.0.0.0"
    assert "CELLWIRE_INSECURE_BIND" not in image_environment
