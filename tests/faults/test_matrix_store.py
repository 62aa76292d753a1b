"""Faults of the store, each by itself, under clients that go on. The numbers are those of docs/promise.md."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from subprocess import run

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.exceptions import RedisError

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from service.store.scripts import COMMIT
from tests.access import SERVICE_USER, users
from tests.faults.scene import Stage, during, staged
from tests.faults.stores import Pair
from tests.proxy import Fault, chaos
from tests.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]
Staged = Callable[..., AbstractAsyncContextManager[Stage]]


async def ask(pair: Pair, *command: str | int) -> None:
    """As an operator, whose own connection may be killed by it."""
    with suppress(RedisError, OSError):
        await pair.ask(*command)


async def test_20_connections_killed_again_and_again(stage: Staged, pair: Pair) -> None:
    async with stage() as on:
        await during(3.0, lambda: ask(pair, "CLIENT", "KILL", "TYPE", "normal"), every=0.2)
        await on.answered()
        assert not on.counts()["reported regressions"]


async def test_21_a_store_that_sleeps(stage: Staged, pair: Pair) -> None:
    async with stage() as on:
        await ask(pair, "DEBUG", "SLEEP", 3)
        await on.answered()
        assert not on.counts()["reported regressions"]


async def test_22_a_store_whose_writes_are_paused(stage: Staged, pair: Pair) -> None:
    async with stage() as on:
        await ask(pair, "CLIENT", "PAUSE", 3000, "WRITE")
        await on.answered()
        assert not on.counts()["reported regressions"]


async def test_23_a_store_that_writes_each_command_to_disk_loses_nothing_when_it_is_killed(
    stage: Staged, pair: Pair
) -> None:
    async with stage() as on:
        for _ in range(3):
            await pair.crash()
            await on.answered()
        assert not on.counts()["reported regressions"]
        assert not on.counts()["sessions said to be lost"]


async def test_25_what_a_power_loss_took_from_the_end_of_the_file_is_said(stage: Staged, pair: Pair) -> None:
    async with stage() as on:
        on.may_lose("power loss")
        pair.primary.kill()
        (tail,) = pair.primary.directory.glob("appendonlydir/*.incr.aof")
        with tail.open("rb+") as file:
            file.truncate(max(0, tail.stat().st_size - 20_000))
        await pair.crash()
        await on.answered()
        assert on.counts()["reported regressions"], (on.reasons(), on.counts())


async def test_26_a_store_that_comes_back_empty_is_said_to_be_another_one(stage: Staged, pair: Pair) -> None:
    async with stage(streams=3, rivals=0, calls=1) as on:
        on.may_lose("emptied")
        pair.primary.kill()
        shutil.rmtree(pair.primary.directory / "appendonlydir")
        await pair.crash()
        await eventually(lambda: _all_lost(on), "every session to be said to be lost")
        await on.answered()


async def _all_lost(on: Stage) -> bool:
    return on.counts()["sessions said to be lost"] >= 4


async def test_27_a_failover_to_a_replica_that_lagged_is_said_and_replayed(stage: Staged, pair: Pair) -> None:
    async with stage() as on:
        for _ in range(3):
            pair.lag()
            await on.answered()
            on.may_lose("failover")
            await pair.fail_over()
            on.fleet.move_store(pair.url)
            await on.answered()
            await pair.recover()
        assert on.counts()["reported regressions"] > 3


async def test_28_29_what_was_answered_after_a_replica_had_it_is_not_lost_by_a_failover(
    stage: Staged, pair: Pair
) -> None:
    """Commits are asked for twice while the replica lags: a repeated one waits for the replica as the first does."""
    async with stage(least_copies=1) as on:
        pair.lag()
        for at, slot in enumerate(on.slots):
            slot.proxy.storm(chaos(at, 0.5, (Fault.DROP,)))
        await eventually(lambda: _asked_twice(on), "commits that were asked for again")
        on.history.add("fault", what="failover", target="store")
        await pair.fail_over()
        on.fleet.move_store(pair.url)
        for slot in on.slots:
            slot.proxy.strike()
        await pair.recover()
        await on.answered()
        assert not on.counts()["reported regressions"]


async def _asked_twice(on: Stage) -> bool:
    requests = [request for slot in on.slots for request in slot.proxy.requests if COMMIT.sha in request[:80]]
    return len(requests) - len(set(requests)) > 4


async def test_34_scripts_flushed_again_and_again(stage: Staged, pair: Pair) -> None:
    async with stage() as on:
        await during(3.0, lambda: ask(pair, "SCRIPT", "FLUSH"), every=0.05)
        await on.answered()
        assert on.reasons() <= {*("LEFT", "CLOSED", "SUPERSEDED", "STALE_OPEN", "STEP_TOO_OLD", "WRITE_FAILED_HERE")}


async def test_35_a_full_store_refuses_before_it_writes(stage: Staged, pair: Pair) -> None:
    async with stage() as on:
        await ask(pair, "CONFIG", "SET", "maxmemory", "1mb")
        await eventually(lambda: _told(on, "STORE_FULL"), "a refusal")
        await ask(pair, "CONFIG", "SET", "maxmemory", "0")
        await on.answered()
        assert not on.counts()["reported regressions"]


async def _told(on: Stage, reason: str) -> bool:
    return reason in on.reasons()


async def test_36_a_store_that_may_evict_sessions_is_not_served_from(stage: Staged, pair: Pair) -> None:
    async with stage(streams=2, rivals=0, calls=0) as on:
        await ask(pair, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await eventually(lambda: _serves(on, False), "readiness to fall")
        await ask(pair, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        await eventually(lambda: _serves(on, True), "readiness to rise")


async def _serves(on: Stage, expected: bool) -> bool:
    channel = on.slots[0].channel
    assert channel
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return bool((answer.status == health_pb2.HealthCheckResponse.SERVING) == expected)


async def test_37_a_disk_that_is_full_stops_the_service_and_loses_nothing(
    test_models: Path, tmp_path: Path, children: Children
) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        EmbeddedStore(
            children,
            fsync="everysec",
            options={"appenddirname": "aof", "auto-aof-rewrite-percentage": "0"},
            users=users(),
        ) as store,
    ):
        store.stop()
        shutil.copytree(store.directory / "aof", disk / "aof")
        shutil.rmtree(store.directory / "aof")
        (store.directory / "aof").symlink_to(disk / "aof")
        store.start()
        async with staged(test_models, tmp_path, children, store, streams=3, rivals=0) as on:
            ballast = disk / "ballast"
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
            await eventually(lambda: _told(on, "TIMEOUT"), "the store to refuse")
            ballast.unlink()
            await on.answered(longest=60.0)
            assert not on.counts()["reported regressions"]


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of 8 MB; the test is skipped where none may be mounted."""
    path.mkdir()
    if run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield path
    finally:
        run(["umount", "-l", path], check=True)


async def test_38_rights_that_are_taken_away_and_given_back(stage: Staged, pair: Pair) -> None:
    async with stage(commit_deadline=1.0) as on:
        await ask(pair, "ACL", "SETUSER", SERVICE_USER, "off")
        await ask(pair, "CLIENT", "KILL", "USER", SERVICE_USER)
        await eventually(lambda: _told(on, "STORE_UNAVAILABLE"), "the loss of rights to be noticed", longest=30.0)
        await ask(pair, "ACL", "SETUSER", SERVICE_USER, "on")
        await on.answered()
        assert on.reasons().isdisjoint({"INTERNAL", "PERMISSION_DENIED"})


async def test_24_what_a_store_had_not_written_when_it_was_killed_is_said(
    test_models: Path, tmp_path: Path, children: Children
) -> None:
    async with Pair(children, fsync="everysec") as pair, staged(test_models, tmp_path, children, pair) as on:
        # the file is written late, as on a busy disk: what is not is lost with the process
        await ask(pair, "DEBUG", "AOF-FLUSH-SLEEP", 100_000)
        await on.answered()
        on.may_lose("crash")
        await pair.crash()
        await on.answered()
