"""Measurements, the ratios that come of them, and the page that shows them."""

import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import bars, processes, report
from benchmarks.__main__ import app, unmet
from benchmarks.measurements import Results


def measured(results: Results, server: str, *micros: float, connections: int = 8, streams: int = 32) -> None:
    """A server in W1, a turn for each figure."""
    for run, value in enumerate(micros):
        case: dict[str, int | float | str] = {"streams": streams, "connections": connections}
        results.add("W1", server, run, case, server_us=value, redis_us=1.0, steps_per_second=10.0)


@pytest.fixture
def results() -> Results:
    """Of one load on eight connections, and on one connection each."""
    results = Results(at="now", machine=dict.fromkeys(("cpu", "cores", "kernel", "python", "commit"), "some"))
    results.machine |= {"grpcio": "some", "onnxruntime": "some"}
    results.settings = {"runs": 3, "seconds": 1.0, "idle_streams": 1, "stored_sessions": 1}
    measured(results, "cellwire", 100.0, 400.0, 150.0)
    measured(results, "echo", 100.0, 200.0, 100.0)
    measured(results, "cellwire", 180.0, 160.0, 170.0, connections=32)
    measured(results, "echo", 100.0, 100.0, 100.0, connections=32)
    return results


def test_a_ratio_is_the_median_of_turns_and_the_worse_of_both_kinds_of_connections(results: Results) -> None:
    assert bars.ratios(results) == {"cpu_vs_echo_32": 1.7}
    measured(results, "echo", 1.0, 1.0, 1.0)
    assert bars.ratios(results) == {"cpu_vs_echo_32": 150.0}


def test_a_ratio_needs_both_kinds_of_connections(results: Results) -> None:
    results.measurements = [each for each in results.measurements if each.case["connections"] == 8]
    assert bars.ratios(results) == {}


def test_bars_have_a_right_side() -> None:
    assert bars.missed({"cpu_vs_echo_32": 1.4, "goodput_4x_vs_1x": 0.9}) == []
    assert bars.missed({"cpu_vs_echo_32": 1.41, "goodput_4x_vs_1x": 0.89}) == ["cpu_vs_echo_32", "goodput_4x_vs_1x"]


def test_a_whole_run_lacks_its_bars_until_all_are_measured() -> None:
    results = Results(ratios={bar.name: 0.0 for bar in bars.RATIOS})
    assert not unmet(results, whole=False)
    assert unmet(results, whole=True)
    results.figures = {bar.name: bar.bar for bar in bars.FIGURES}
    assert not unmet(results, whole=True)
    results.ratios["cpu_vs_echo_32"] = 2.0
    assert unmet(results, whole=False)


def test_results_come_back_from_their_file(results: Results, tmp_path: Path) -> None:
    results.ratios = bars.ratios(results)
    results.write(tmp_path / "deep" / "some.json")
    assert Results.read(tmp_path / "deep" / "some.json") == results


def test_what_is_measured_again_replaces_what_was_there(results: Results) -> None:
    results.add("W10", "cellwire", 0, {}, goodput_4x_vs_1x=1.0)
    results.skipped = {"W1 some": "why", "W10": "why"}
    results.done = ["W1", "W10"]
    results.forget("W1")
    assert [each.workload for each in results.measurements] == ["W10"]
    assert (results.skipped, results.done) == ({"W10": "why"}, ["W10"])


def test_the_page_has_every_bar_and_every_case(results: Results, tmp_path: Path) -> None:
    results.ratios = bars.ratios(results)
    results.skipped = {"baselines triton": "it cannot be installed here"}
    report.write(results, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| `cpu_vs_echo_32` | 1.70 | ≤ 1.4 | 1.15 | **not met** |" in page
    assert all(f"`{bar.name}`" in page for bar in (*bars.RATIOS, *bars.FIGURES))
    assert "| cellwire | 32 | 8 | 10 | 150.0 | 1.0 |" in page
    assert "- baselines triton: it cannot be installed here" in page
    for picture in ("bars", "cpu"):
        assert f"](page/{picture}.png)" in page
        assert (tmp_path / "page" / f"{picture}.png").stat().st_size > 1000


def test_the_command_line_knows_its_workloads(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["run", "--only", "W99", "--json", str(tmp_path / "some.json")])
    assert outcome.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_file_is_shown_with_its_verdicts(results: Results, tmp_path: Path) -> None:
    results.ratios = bars.ratios(results)
    results.write(tmp_path / "some.json")
    outcome = CliRunner().invoke(app, ["show", str(tmp_path / "some.json")])
    assert outcome.exit_code == 0
    assert "not met" in outcome.output


def test_a_second_listener_on_the_port_is_found() -> None:
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        port = ours.getsockname()[1]
        assert processes.listens_alone(port, [os.getpid()])
        assert not processes.listens_alone(port, [])
    assert not processes.listens_alone(port, [os.getpid()])


def test_the_family_of_a_process_has_its_children_and_their_costs() -> None:
    pids = processes.family(os.getpid())
    assert pids[0] == os.getpid()
    assert processes.cpu_seconds(pids) > 0
    assert processes.resident_bytes(pids) > 2**20
    assert processes.family(2**22 + 1) == []
