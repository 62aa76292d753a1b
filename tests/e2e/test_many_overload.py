"""Overload, deadlines and slow readers on a stream of many: what is refused to one handle holds no other up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import REGISTRY

from cellwire.v1 import cell_service_pb2 as pb
from models.cells import checked
from service.errors import Draining
from service.many import ManyStream
from service.server import Server
from tests.harness import Place, replica
from tests.held import SMALL_WINDOW, Held, held_in, held_models
from tests.many import WireMany, columns, numbers, output, why
from tests.waiting import LONGEST, until

TOKEN = b"t" * 16


@pytest.fixture(scope="module")
def test_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return held_models(tmp_path_factory.mktemp("many-overload"))


@pytest.fixture
async def held(server: Server, test_models: Path) -> AsyncIterator[Held]:
    async with held_in(server, test_models) as held:
        yield held


async def filled(channel: grpc.aio.Channel, held: Held, others: int = 1) -> WireMany:
    """Handles 1 to 4 have a timestep before the shut gate, as many as are admitted; the others have done step 1."""
    many = WireMany(channel)
    last = 4 + others
    await many.open({handle: f"s{handle}" for handle in range(1, last + 1)}, "held")
    for handle in range(5, last + 1):
        await many.step([handle], [1], numbers(1))
    held.gate.clear()
    await many.send(timesteps=[columns([1, 2, 3, 4], [1] * 4, numbers(1, 2, 3, 4))])
    await until(lambda: held.in_flight == 4, "four in flight")
    return many


async def test_what_is_not_admitted_is_refused_to_its_handle(channel: grpc.aio.Channel, held: Held) -> None:
    many = await filled(channel, held, others=2)
    await many.open({9: "other"}, "checker")
    (refused,) = await many.step([5], [2], numbers(2))
    assert (why(refused).reason, refused.ended) == ("OVERLOADED", False)
    assert why(refused).retry_seconds
    (replayed,) = await many.step([6], [1], numbers(1))
    assert replayed.replayed
    (gap,) = await many.step([6], [9], numbers(1))
    assert why(gap).reason == "STEP_GAP"
    assert (await many.step([9], [1], numbers(1)))[0].step == 1
    await many.send(opens=[pb.HandleOpen(handle=10, open=pb.Open(session_id="new", model="held"))])
    assert why(await many.answer(10)).reason == "OVERLOADED"
    held.gate.set()
    await many.until(dict.fromkeys((1, 2, 3, 4), 2))
    assert [int(output(many.answers[handle][1])[0]) for handle in (1, 2, 3, 4)] == [
        checked([x])[0] for x in range(1, 5)
    ]
    await asyncio.sleep(why(refused).retry_seconds or 0)
    assert (await many.step([5], [2], numbers(2)))[0].step == 2


async def test_who_comes_too_early_waits_by_itself(channel: grpc.aio.Channel, held: Held) -> None:
    many = await filled(channel, held, others=2)
    held.loaded.admission._delay = 2.0
    await many.step([5], [2], numbers(2))
    held.gate.set()
    await many.until(dict.fromkeys((1, 2, 3, 4), 2))
    await many.send(timesteps=[columns([5, 5, 6], [2, 3, 2], numbers(2, 3, 2))])
    assert (await many.answer(6)).step == 2
    assert len(many.answers[5]) == 3
    await many.until({5: 5})
    early, behind = many.answers[5][3:]
    assert [why(each).reason for each in (early, behind)] == ["OVERLOADED", "STEP_GAP"]
    assert why(early).retry_seconds == 0.0
    assert (await many.step([5], [2], numbers(2)))[0].step == 2


@pytest.mark.parametrize("way", ["priority", "timeout"])
async def test_a_higher_priority_or_a_timeout_does_not_wait_so_long(
    channel: grpc.aio.Channel, held: Held, way: str
) -> None:
    many = await filled(channel, held)
    held.loaded.admission._delay = 100 * LONGEST
    await many.step([5], [2], numbers(2))
    held.gate.set()
    await many.until(dict.fromkeys((1, 2, 3, 4), 2))
    message = columns([5], [2], numbers(2))
    if way == "priority":
        message.priority = 1
    else:
        message.timeout.CopyFrom(Duration(nanos=50_000_000))
    await many.send(timesteps=[message])
    assert isinstance(await many.answer(5), pb.Reply if way == "priority" else pb.HandleRefused)


async def test_who_waits_for_having_come_too_early_does_not_hold_a_drain(channel: grpc.aio.Channel, held: Held) -> None:
    many = await filled(channel, held)
    held.loaded.admission._delay = 100 * LONGEST
    await many.step([5], [2], numbers(2))
    await many.send(timesteps=[columns([5], [2], numbers(2))])
    (stream,) = held.server.servicer.streams
    assert isinstance(stream, ManyStream)
    await until(lambda: stream._handles[5]._held is not None, "the message is kept waiting")
    held.server.sessions.draining = True
    stream.end(Draining("this replica is going", retry_after=0.0))
    held.gate.set()
    assert (await many.ended()).reason == "DRAINING"
    assert [many.answers[handle][-1].step for handle in (1, 2, 3, 4)] == [1] * 4
    assert len(many.answers[5]) == 3  # the open, step 1, and that step 2 was not admitted


async def test_those_who_leave_are_counted_out(channel: grpc.aio.Channel, held: Held) -> None:
    many = await filled(channel, held, others=0)
    many.call.cancel()
    await until(lambda: held.in_flight == 0, "nothing in flight")
    assert not held.gate.is_set()
    await held.server.sessions.settled()
    held.gate.set()
    newer = WireMany(channel)
    await newer.open({1: "new"}, "held")
    assert (await newer.step([1], [1], numbers(1)))[0].step == 1


async def test_a_message_that_is_not_started_in_time_is_refused_row_by_row(
    channel: grpc.aio.Channel, held: Held
) -> None:
    many = WireMany(channel)
    await many.open({1: "a", 2: "b", 3: "c"}, "held")
    held.gate.clear()
    await many.send(timesteps=[columns([1], [1], numbers(1))])
    await until(lambda: held.in_flight == 1, "one in flight")
    late = columns([2, 3], [1, 1], numbers(2, 3))
    late.timeout.CopyFrom(Duration(nanos=1))
    await many.send(timesteps=[late])
    await until(lambda: held.in_flight == 3, "three in flight")
    held.gate.set()
    await many.until({1: 2, 2: 2, 3: 2})
    assert [why(many.answers[handle][1]).reason for handle in (2, 3)] == ["STEP_DEADLINE"] * 2
    assert [reply.step for reply in await many.step([2, 3], [1, 1], numbers(2, 3))] == [1, 1]


def received() -> float:
    """Messages that the replica has taken."""
    labels = {"grpc_type": "bidi_stream", "grpc_service": "cellwire.v1.CellService", "grpc_method": "StreamMany"}
    return REGISTRY.get_sample_value("grpc_server_msg_received_total", labels) or 0.0


async def test_a_client_that_does_not_read_is_cut_off_and_its_sessions_are_left(place: Place) -> None:
    async with (
        replica(place, write_timeout=0.3, max_message_bytes=1 << 15) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=SMALL_WINDOW) as channel,
    ):
        many = WireMany(channel)
        await many.open({handle: f"s{handle}" for handle in range(1, 9)}, "wide", create_token=TOKEN)

        async def flood() -> None:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                for step in range(1, 200):
                    x = np.full((8, 1), step, np.float32)
                    await many.send(timesteps=[columns(range(1, 9), [step] * 8, x)])

        before = received()
        sending = asyncio.create_task(flood())
        await until(lambda: not server.servicer.streams, "the stream is gone")
        assert not server.sessions.live
        await server.sessions.settled()
        await sending
        assert (await many.ended()).reason == "SLOW_CONSUMER"
        steps = [answer.step for answer in many.answers[1] if isinstance(answer, pb.Reply)]
        assert steps == list(range(1, len(steps) + 1))
        assert 0 < len(steps) < 199
        assert received() < before + 100  # nor was what it went on to send
