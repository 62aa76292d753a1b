"""Faults of replicas, each by itself, under clients that go on. The numbers are those of docs/promise.md."""

import asyncio
import random
import resource
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import grpc
import pytest

from cellwire.cli.children import Children
from service.failpoints import KILLED
from tests.faults.scene import Stage
from tests.faults.stores import Pair
from tests.harness import Place, ReplicaProcess, WireStream, number
from tests.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]
Staged = Callable[..., AbstractAsyncContextManager[Stage]]


async def test_01_a_killed_replica_loses_and_doubles_nothing(stage: Staged) -> None:
    async with stage() as on:
        for slot in (*on.slots, *on.slots):
            await slot.kill()
            await on.answered()
            await on.fleet.start(slot)
        assert not on.counts()["reported regressions"]
        assert on.counts()["takeovers"]


@pytest.mark.parametrize(
    "place",
    [
        *("before_run", "after_run", "before_send", "after_send", "after_reply"),
        *("before_encode", "in_claim", "in_release"),
    ],
)
async def test_02_03_a_replica_that_dies_at_exactly_this_place_loses_and_doubles_nothing(
    stage: Staged, place: str
) -> None:
    async with stage() as on:
        slot = on.slots[0]
        for hit in (1, 3):
            await slot.kill()
            await on.fleet.start(slot, failpoints=f"{place}=exit@{hit}")
            process = slot.process
            assert process
            await until(lambda process=process: process.child.poll() is not None, "its end")  # type: ignore[misc]
            assert await slot.ended() == KILLED
            await on.answered()
            await on.fleet.start(slot)
        assert not on.counts()["reported regressions"]
        assert place != "after_reply" or on.counts()["replays"]


async def test_03_a_commit_whose_answer_was_dropped_is_asked_again(stage: Staged) -> None:
    async with stage() as on:
        for slot in on.slots:
            await slot.kill()
            await on.fleet.start(slot, failpoints="after_send=drop@5")
            requests = slot.proxy.requests
            await until(lambda asked=requests: len(set(asked)) < len(asked), "asked again")  # type: ignore[misc]
            await on.answered()


@pytest.mark.timeout(600)
async def test_04_twenty_rolling_restarts_show_an_application_nothing(stage: Staged) -> None:
    async with stage(streams=0, rivals=0, calls=0, applications=6, replicas=3) as on:
        for _ in range(20):
            for slot in on.slots:
                assert await slot.terminate() == 0
                await on.fleet.start(slot)
        await on.answered()
        assert on.reasons() <= {"CLOSED"}


@pytest.mark.parametrize("delay", [0.0, 0.2], ids=["a quick store", "answers parked before a slow store"])
async def test_05_06_what_a_stopped_owner_finds_when_it_wakes_changes_nothing(stage: Staged, delay: float) -> None:
    async with stage() as on:
        for slot in on.slots:
            slot.proxy.slow(delay)
            pause = asyncio.create_task(slot.pause(3.0))
            await on.answered()
            await pause
            slot.proxy.strike()
        await on.answered()
        assert on.counts()["takeovers"]


async def test_07_a_blocked_event_loop_loses_leases_and_nothing_else(stage: Staged) -> None:
    async with stage() as on:
        slot = on.slots[0]
        await slot.kill()
        await on.fleet.start(slot, failpoints="before_run=block:5@3")
        await on.answered()
        await on.answered()


async def test_08_rivals_displace_each_other_and_double_nothing(stage: Staged) -> None:
    async with stage(streams=0, rivals=6, calls=0) as on:
        await on.answered(times=30)
        assert on.counts()["takeovers"] > 10
        assert "SUPERSEDED" in on.reasons()


async def test_13_clients_that_leave_at_any_moment_leave_nothing_behind(stage: Staged) -> None:
    """Streams that are cancelled amid opening, sending and waiting, beside others that go on in the same batches."""
    async with stage() as on:
        draw = random.Random(13)

        async def leave(at: int) -> None:
            channel = on.fleet.any_channel(draw)
            assert channel
            stream = WireStream(channel)

            async def go_on() -> None:
                await stream.open(f"leaver{at}")
                for step in range(1, 6):
                    await stream.step(step, number(step))

            task = asyncio.create_task(go_on())
            await asyncio.sleep(draw.uniform(0, 0.05))
            stream.call.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        for batch in range(20):
            await asyncio.gather(*(leave(20 * batch + at) for at in range(20)))
        await on.answered()


async def test_46_a_replica_without_descriptors_keeps_the_streams_that_it_has(stage: Staged) -> None:
    async with stage(streams=2, rivals=0, calls=0, replicas=1) as on:
        pid = on.slots[0].pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, before[1]))
        await on.answered(times=10)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        await on.answered()


async def test_47_sessions_that_idle_and_streams_that_wait_take_little_memory(
    test_models: Path, tmp_path: Path, children: Children, pair: Pair
) -> None:
    """Ten thousand sessions that have left are in the store alone; a thousand streams that wait take some each."""
    process = ReplicaProcess(children, Place(pair.url, "idle", (test_models,)), tmp_path, "idle", log_level="WARNING")
    crowd, waiting = 10_000, 1_000
    target = await asyncio.to_thread(process.target)
    async with grpc.aio.insecure_channel(target) as channel:

        async def visit(name: str) -> WireStream:
            stream = WireStream(channel)
            await stream.open(name)
            await stream.replied(1, number(1))
            return stream

        async def leave(at: int, until: int) -> None:
            for each in range(at, until):
                await (await visit(f"idle{each}")).close()

        await asyncio.gather(*(leave(10 * at, 10 * at + 10) for at in range(50)))  # what any load takes
        before = process.memory()
        await asyncio.gather(*(leave(at, at + 200) for at in range(500, 500 + crowd, 200)))
        left = process.memory()
        streams = await asyncio.gather(*(visit(f"waits{at}") for at in range(waiting)))
        held = process.memory()
        for stream in streams:
            await stream.close()
    assert (left - before) / crowd < 1024, f"{left - before} bytes for {crowd} idle sessions"
    assert (held - left) / waiting < 2**16, f"{held - left} bytes for {waiting} streams"
    assert process.terminate() == 0


async def test_48_a_crowd_that_loses_its_replica_gets_on_elsewhere(stage: Staged) -> None:
    async with stage(streams=150, rivals=0, calls=0, replicas=3) as on:
        await on.slots[0].kill()
        await on.answered(times=1, longest=60.0)
        await on.fleet.start(on.slots[0])


async def test_04_a_replica_that_goes_answers_what_it_accepted_and_sends_the_rest_elsewhere(stage: Staged) -> None:
    async with stage(streams=6, rivals=1, calls=2) as on:
        for slot in on.slots:
            assert await slot.terminate() == 0
            await on.answered()
            await on.fleet.start(slot)
        assert "DRAINING" in on.reasons()
