"""Failpoints: what may be asked for, where it is refused, and that a replica fails as it was told."""

import signal
from pathlib import Path

import grpc
import pytest

from cellwire.cli.children import Children
from cellwire.v1 import cell_service_pb2 as pb
from service import failpoints
from service.settings import BadSettings, load
from tests.harness import Place, ReplicaProcess, WireStream, number, timestep
from tests.waiting import until


@pytest.mark.parametrize(
    "text",
    ["before_run", "nowhere=exit", "before_run=vanish", "before_run=drop", "before_run=exit@0", "before_run=block:x"],
)
def test_what_is_no_failpoint_is_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="place=action"):
        load(failpoints=text)


def test_failpoints_are_refused_beyond_loopback() -> None:
    load(host="127.0.0.1", failpoints="before_run=exit")
    with pytest.raises(BadSettings, match="loopback"):
        load(host="0.0.0.0", insecure_bind=True, failpoints="before_run=exit")


def test_a_failure_comes_at_its_hit_and_once() -> None:
    failpoints.arm("after_send=drop@3")
    try:
        for at in range(1, 6):
            if at == 3:
                with pytest.raises(failpoints.Dropped):
                    failpoints.hit("after_send")
            else:
                failpoints.hit("after_send")
    finally:
        failpoints.arm("")


@pytest.mark.parametrize("place_of", ["in_claim", "before_run", "after_run", "after_reply", "before_encode"])
async def test_a_replica_dies_where_it_was_told(place: Place, tmp_path: Path, place_of: str) -> None:
    with Children() as children:
        process = ReplicaProcess(children, place, tmp_path, "doomed", failpoints=f"{place_of}=exit", load="checker")
        async with grpc.aio.insecure_channel(process.target()) as channel:
            stream = WireStream(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await _open_and_step(stream)
        assert process.child.wait(20) == failpoints.KILLED


async def test_a_replica_stops_where_it_was_told(place: Place, tmp_path: Path) -> None:
    with Children() as children:
        process = ReplicaProcess(children, place, tmp_path, "stopped", failpoints="after_run=stop", load="checker")
        async with grpc.aio.insecure_channel(process.target()) as channel:
            stream = WireStream(channel)
            await stream.open()
            await stream.send(pb.StreamRequest(timestep=timestep(1, number(1))))
            await until(lambda: _state(process) == "T", "the stop")
            process.child.send_signal(signal.SIGCONT)
            assert (await stream.read()).reply.step == 1
            await stream.close()


async def _open_and_step(stream: WireStream) -> None:
    await stream.open()
    await stream.step(1, number(1))


def _state(process: ReplicaProcess) -> str:
    """As /proc says it: R, S, T for stopped."""
    return Path(f"/proc/{process.child.pid}/stat").read_text().rpartition(")")[2].split()[0]
