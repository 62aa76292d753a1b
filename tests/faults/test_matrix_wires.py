"""Faults of the wires between clients, replicas and store, each by itself. The numbers are those of docs/promise.md."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import pytest

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from tests.access import users
from tests.faults.scene import Stage, during, staged
from tests.proxy import Fault, chaos
from tests.topologies import free_port
from tests.waiting import eventually, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]
Staged = Callable[..., AbstractAsyncContextManager[Stage]]


@pytest.mark.parametrize("seconds", [0.005, 0.05, 0.5])
async def test_15_a_distant_store_makes_answers_late_and_breaks_nothing(stage: Staged, seconds: float) -> None:
    async with stage(streams=3, rivals=0, calls=1, store_timeout=2.0) as on:
        for slot in on.slots:
            slot.proxy.slow(seconds)
        await on.answered(times=2)
        assert on.reasons() <= {"LEFT", "CLOSED", "TIMEOUT", "STALE_OPEN"}


async def test_16_a_wire_that_loses_packets_makes_answers_late_and_loses_nothing(
    test_models: Path, tmp_path: Path, children: Children
) -> None:
    port = free_port()
    with EmbeddedStore(children, options={"port": str(port)}, users=users()) as store:
        async with staged(test_models, tmp_path, children, store) as on:
            on.fleet.move_store(f"127.0.0.1:{port}")
            await on.answered()
            with lossy(port) as packets_lost:
                await on.answered(times=20)
                assert packets_lost()
            await on.answered()
            assert not on.counts()["reported regressions"]


@contextmanager
def lossy(port: int) -> Iterator[Callable[[], int]]:
    """Every twentieth packet from or to this port is lost: how many were. The test is skipped where none may be."""
    table = f"cellwire_{port}"
    rules = "\n".join(f"{end} {port} numgen random mod 100 < 5 counter drop" for end in ("tcp dport", "tcp sport"))
    script = f"table inet {table} {{\nchain lossy {{\ntype filter hook output priority 0\n{rules}\n}}\n}}\n"
    nft = shutil.which("nft")
    if (
        nft is None
        or subprocess.run([nft, "-f", "-"], input=script, capture_output=True, check=False, text=True).returncode
    ):
        pytest.skip("packets of this machine may not be dropped")

    def lost() -> int:
        told = subprocess.run([nft, "list", "table", "inet", table], capture_output=True, check=True, text=True)
        words = told.stdout.split()
        return sum(int(words[at + 1]) for at, word in enumerate(words) if word == "packets")

    try:
        yield lost
    finally:
        subprocess.run([nft, "delete", "table", "inet", table], check=True)


async def test_17_a_store_out_of_reach_for_a_while_is_waited_for(stage: Staged) -> None:
    async with stage() as on:
        for slot in on.slots:
            slot.proxy.freeze()
        await during(2.0, _nothing, every=0.1)
        for slot in on.slots:
            slot.proxy.mend()
        await on.answered()
        assert not on.counts()["reported regressions"]


async def test_17_a_store_out_of_reach_for_long_is_said_to_be(stage: Staged) -> None:
    async with stage(streams=3, rivals=0, calls=0, commit_deadline=1.0) as on:
        for slot in on.slots:
            slot.proxy.cut()
        await eventually(lambda: _told(on, "STORE_UNAVAILABLE"), "a refusal")
        for slot in on.slots:
            slot.proxy.mend()
        await on.answered()
        assert not on.counts()["reported regressions"]


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.CUT_REQUEST, Fault.DROP, Fault.SHIFT, Fault.STALL])
async def test_18_19_an_answer_that_is_lost_cut_or_another_ones_is_asked_for_again(stage: Staged, fault: Fault) -> None:
    async with stage(streams=6) as on:
        for at, slot in enumerate(on.slots):
            slot.proxy.storm(chaos(at, 0.2, (fault,)))
        await on.answered(times=5)
        await until(lambda: all(slot.proxy.struck for slot in on.slots), "a fault for each replica")
        for slot in on.slots:
            slot.proxy.strike()
        await on.answered()
        assert not on.counts()["reported regressions"]
        wanted = "not executed" if fault is Fault.CUT_REQUEST else "executed"
        assert on.counts()[f"commits in doubt: {wanted}"]


@pytest.mark.parametrize("act", ["freeze", "cut", "reset", "mid-frame"])
async def test_11_a_client_cut_off_from_its_replica_goes_on_at_another(stage: Staged, act: str) -> None:
    async with stage(streams=0, rivals=0, calls=0, applications=4) as on:
        for slot in on.slots:
            if act == "freeze":
                slot.gate.freeze()
            elif act == "mid-frame":
                slot.gate.reset_in_mid_frame()
            else:
                (slot.gate.cut if act == "cut" else slot.gate.reset)()
            await on.answered()
            slot.gate.mend()
        await on.answered()
        assert on.reasons() <= {"CLOSED"}


async def _nothing() -> None:
    """Time passes."""


async def _told(on: Stage, reason: str) -> bool:
    return reason in on.reasons()
