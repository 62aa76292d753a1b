"""Clocks that are wrong, each by itself, under clients that go on. The numbers are those of docs/promise.md."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import pytest

from tests.faults.scene import Stage
from tests.faults.stores import Pair

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]
Staged = Callable[..., AbstractAsyncContextManager[Stage]]
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
needs_faketime = pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed")


@contextmanager
def clock(file: Path) -> Iterator[Callable[[str], None]]:
    """Processes that are started meanwhile go by a wall clock that the test sets, as "+3600s", then and later.

    Time that only runs, the monotonic clock, is theirs as ever: that is what a wrong clock is.
    """
    faked = {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }

    def set_to(offset: str) -> None:
        new = file.with_suffix(".new")
        new.write_text(offset)
        new.rename(file)

    set_to("+0s")
    os.environ.update(faked)
    try:
        yield set_to
    finally:
        for name in faked:
            del os.environ[name]


@needs_faketime
async def test_39_a_replica_of_the_store_that_is_an_hour_ahead_is_promoted(
    stage: Staged, pair: Pair, tmp_path: Path
) -> None:
    """Sessions that live shorter than that have expired there: their clients are told, and new ones live."""
    with clock(tmp_path / "clock") as set_to:
        set_to("+3600s")
        pair.follower.stop()
        pair.follower.kill()
        await pair.recover()
    ahead = await pair.seconds_ahead()
    assert 3500 < ahead < 3700
    async with stage() as on:
        on.may_lose("failover to a clock that is ahead")
        await pair.fail_over()
        on.fleet.move_store(pair.url)
        await on.answered()
        assert on.counts()["sessions said to be lost"]


@needs_faketime
async def test_40_a_replicas_wall_clock_that_jumps_changes_nothing(stage: Staged, tmp_path: Path) -> None:
    with clock(tmp_path / "clock") as set_to:
        async with stage() as on:
            for slot in on.slots:
                assert LIBRARIES[0].name in await asyncio.to_thread(Path(f"/proc/{slot.pid}/maps").read_text)
            for offset in ("+3600s", "-3600s", "+0s"):
                set_to(offset)
                await on.answered(times=5)
            assert not on.counts()["reported regressions"]
            assert on.reasons() <= {"LEFT", "CLOSED", "SUPERSEDED", "STALE_OPEN", "STEP_TOO_OLD", "WRITE_FAILED_HERE"}
