"""Scaling on paper: what is fitted, what it asks for, and whether the simulation obeys the laws of queues."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import LATEST
from benchmarks.measurements import Results
from benchmarks.scaling import fit, plan, slices
from benchmarks.scaling.__main__ import app
from benchmarks.scaling.fit import Costs, Line, TooFew
from benchmarks.scaling.plan import Limits, Load
from benchmarks.scaling.simulation import Case, Simulation

COSTS = Costs(
    replica=Line(640.0, 90.0, 0.0, 0.0, 0.0, 9),
    store=Line(128.0, 18.0, 0.0, 0.0, 0.0, 9),
    behind_share=0.5,
    behind_record=2.0,
    cluster_replica=1.2,
    cluster_store=1.4,
    many=10.0,
    many_measured=True,
    client_bytes=250.0,
    store_bytes=1400.0,
    stream_kb=30.0,
    session_kb=4.0,
    base_mb=100.0,
)
CASE = Case(replicas=1, shards=1, sessions=100, rate=20.0, batch_fixed=200.0, timestep=50.0, call=100.0, key=10.0)


def test_a_line_is_found_again_with_its_error() -> None:
    exact = fit.line([(1 / size, 300 / size + 50) for size in (1, 2, 8, 64)])
    assert (exact.fixed, exact.each, exact.spread) == pytest.approx((300, 50, 0), abs=1e-6)
    off = fit.line([(1.0, 385.0), (0.5, 180.0), (0.1, 88.0), (0.02, 50.4)])
    assert abs(off.fixed - 300) < 3 * off.fixed_error
    assert abs(off.each - 50) < 3 * off.each_error
    assert 0.05 < off.spread < 0.15


def test_a_line_needs_points_of_several_sizes() -> None:
    for points in ([(1.0, 1.0), (0.5, 1.0)], [(1.0, 1.0)] * 5):
        with pytest.raises(TooFew):
            fit.line(points)


def test_the_fit_leaves_out_write_behind_and_what_was_refused() -> None:
    results = Results()
    for batch in (1, 4, 16):
        results.add("W1", "cellwire", 0, {"streams": batch}, batch=batch, commit=batch, server_us=100 / batch + 10)
    results.add("W1", "cellwire", 0, {}, batch=8, commit=8, server_us=9e9, refused=1.0)
    results.add("W8", "cellwire", 0, {"mode": "behind"}, batch=8, commit=8, server_us=9e9)
    found = fit.line(fit.plain_points(results, "server_us"))
    assert (found.fixed, found.each, found.points) == pytest.approx((100, 10, 3))


def test_a_plan_follows_from_costs_and_utilisation() -> None:
    need = plan.need(COSTS, Load(10_000, 100), Limits())
    assert plan.replica_micros(COSTS, need.load, Limits()) == pytest.approx(640 / 64 + 90)
    assert (need.replicas, need.shards, need.binds) == (143, 29, "CPU")  # 10^6 * 100 us / 0.7; 10^6 * 20 us / 0.7
    assert plan.need(COSTS, need.load, replace(Limits(), speed=2.0)).replicas == 72
    assert need.cluster_replicas == 172
    assert need.cluster_shards > need.shards


def test_sessions_that_hardly_advance_are_a_matter_of_memory() -> None:
    need = plan.need(COSTS, Load(100_000_000, 0.001), Limits())
    assert (need.binds, need.shards) == ("memory", 9)


def test_write_behind_saves_what_its_timers_allow() -> None:
    limits = Limits()
    assert [limits.steps_a_commit(Load(1, rate, behind=True)) for rate in (1, 31, 100, 10_000)] == [1, 2, 6, 8]
    through, behind = (plan.need(COSTS, Load(10_000, 100, behind=mode), limits) for mode in (False, True))
    assert behind.replicas < through.replicas
    assert behind.shards < through.shards


def test_many_sessions_a_message_save_replicas_and_no_shards() -> None:
    single, many = (plan.need(COSTS, Load(10_000, 100, many=mode), Limits()) for mode in (False, True))
    assert (single.replicas, many.replicas) == (143, 15)
    assert many.shards == pytest.approx(single.shards, abs=2)


def test_a_cluster_that_all_replicas_know_runs_out_of_connections() -> None:
    small, large = (plan.need(COSTS, Load(sessions, 100), Limits()) for sessions in (10_000, 1_000_000))
    assert not small.cluster_breaks
    assert large.cluster_breaks
    assert large.connections == small.connections < 100


def test_a_lone_session_waits_for_its_own_work_alone() -> None:
    outcome = Simulation(replace(CASE, sessions=1)).run()
    assert outcome.p50_ms == outcome.p99_ms == pytest.approx(0.36, abs=0.01)
    assert (outcome.batch, outcome.commit) == (1, 1)


def test_what_is_busy_is_what_the_work_costs() -> None:
    outcome = Simulation(CASE).run()
    steps = outcome.steps_per_second
    assert steps == pytest.approx(2000, rel=0.02)
    assert outcome.replica_busy == pytest.approx(steps * (200 / outcome.batch + 50) / 1e6, rel=0.02)
    assert outcome.shard_busy == pytest.approx(steps * (100 / outcome.commit + 10) / 1e6, rel=0.02)
    assert not outcome.saturated


def test_batches_grow_with_the_load_until_it_is_saturated() -> None:
    low, high, over = (Simulation(replace(CASE, sessions=sessions)).run() for sessions in (100, 800, 1200))
    assert low.batch < high.batch < over.batch <= CASE.max_batch
    assert (high.saturated, over.saturated) == (False, True)
    # 64 * 50 us + 200 us a batch of 64
    assert over.steps_per_second == pytest.approx(64 / (64 * 50 + 200) * 1e6, rel=0.02)


def test_a_slow_shard_makes_commits_gather() -> None:
    case = replace(CASE, call=20_000.0)
    outcome = Simulation(case).run()
    assert outcome.commit > 5 * outcome.batch
    assert outcome.shard_busy == pytest.approx(1.0, rel=0.02)
    assert not outcome.saturated
    behind = Simulation(replace(case, steps_a_commit=8)).run()
    assert behind.p99_ms < 5 < outcome.p50_ms
    assert behind.steps_per_second == pytest.approx(2000, rel=0.02)


def test_every_replica_and_shard_gets_its_part() -> None:
    case = replace(CASE, sessions=200, call=20.0, key=100.0)
    one = Simulation(case).run()
    four = Simulation(replace(case, sessions=800, replicas=4, shards=4)).run()
    assert four.replica_busy == pytest.approx(one.replica_busy, rel=0.05)
    assert four.steps_per_second == pytest.approx(4 * one.steps_per_second, rel=0.02)
    assert not four.saturated  # as one shard with the commits of all would be


def test_the_model_agrees_with_the_simulation_where_it_is_loaded() -> None:
    for row in slices.grid(COSTS, replicas=4, shards=2, seconds=1.0):
        if row.percent >= 70:
            assert row.simulated.steps_per_second == pytest.approx(row.predicted.steps_per_second, rel=0.05)
            assert row.simulated.batch == pytest.approx(row.predicted.batch, rel=0.15)
        assert row.simulated.saturated == (row.percent > 100)


def test_the_page_and_its_figures_come_from_a_run(tmp_path: Path) -> None:
    page = tmp_path / "scaling.md"
    outcome = CliRunner().invoke(app, ["--results", str(LATEST), "--json", "--page", str(page), "--seconds", "0.2"])
    assert outcome.exit_code == 0
    told = json.loads(outcome.stdout)
    assert len(told["needs"]) == 24
    assert told["costs"]["replica"]["fixed_error"] > 0
    text = page.read_text()
    assert all(f"| {sessions} |" in text for sessions in ("10 k", "1 M", "100 M"))
    assert (tmp_path / "scaling" / "fit.png").stat().st_size > 1000


def test_a_run_that_lacks_measurements_is_refused_by_name(tmp_path: Path) -> None:
    Results().write(tmp_path / "some.json")
    outcome = CliRunner().invoke(app, ["--results", str(tmp_path / "some.json")])
    assert outcome.exit_code == 2
    assert "points" in outcome.output
