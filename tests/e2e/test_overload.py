"""Overload: what is refused and what is not, deadlines, clients that do not read or are gone, and caps."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import QuotaFailure
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from cellwire.cli.children import Children
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc
from models.cells import checked
from service import server as server_module
from service.errors import Draining
from service.server import Server
from tests.faults.gate import Gate
from tests.harness import (
    Fault,
    Place,
    ReplicaProcess,
    WireStream,
    arrays,
    fault,
    fault_of,
    number,
    open_fault,
    replica,
    timestep,
)
from tests.held import SMALL_WINDOW, Held, held_in, held_models
from tests.hostile import call, seen
from tests.waiting import LONGEST, until

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
TOKEN = b"t" * 16


@pytest.fixture(scope="module")
def test_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return held_models(tmp_path_factory.mktemp("overload"))


@pytest.fixture
async def held(server: Server, test_models: Path) -> AsyncIterator[Held]:
    async with held_in(server, test_models) as held:
        yield held


async def opened(channel: grpc.aio.Channel, count: int, model: str = "held") -> list[WireStream]:
    streams = [WireStream(channel) for _ in range(count)]
    for at, stream in enumerate(streams):
        await stream.open(f"s{at}", model)
    return streams


def request(step: int, value: int, **fields: Any) -> pb.StreamRequest:
    message = timestep(step, number(value))
    message.MergeFrom(pb.Timestep(**fields))
    return pb.StreamRequest(timestep=message)


def refusals(reason: str) -> float:
    return REGISTRY.get_sample_value("cellwire_refused_total", {"reason": reason}) or 0.0


# ---- admission


async def test_only_the_next_message_and_new_sessions_are_refused(channel: grpc.aio.Channel, held: Held) -> None:
    session = WireStream(channel)
    await session.open("a", "held", create_token=TOKEN)
    first, _ = [await session.replied(step, number(step)) for step in (1, 2)]
    left = WireStream(channel)
    epoch = (await left.open("left", "held", create_token=TOKEN)).epoch
    await left.replied(1, number(1))
    await left.close()
    streams = await opened(channel, 4)
    await held.fill(streams)

    again = await session.replied(1, number(1))
    assert (again.replayed, again.outputs) == (True, first.outputs)
    assert (await session.refused(request(2, 77))).reason == "STEP_CONFLICT"
    assert (await session.refused(request(9, 1))).reason == "STEP_GAP"
    told = await session.refused(request(3, 3))
    assert (told.code, told.reason) == (RESOURCE_EXHAUSTED, "OVERLOADED")
    assert told.retry_seconds
    welcome_after = told.retry_seconds
    told = await open_fault(channel, session_id="new", model="held")
    assert (told.code, told.reason) == (RESOURCE_EXHAUSTED, "OVERLOADED")
    assert told.retry_seconds
    assert (await open_fault(channel, session_id="new", model="held", create_token=b"n" * 16)).reason == "OVERLOADED"

    resumed = await WireStream(channel).open(
        "left", "held", create_token=TOKEN, mode=pb.OPEN_MODE_RESUME, found_epoch=epoch
    )
    assert resumed.step == 1

    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    other = WireStream(channel)  # of another model
    await other.open("other", "checker")
    assert (await other.replied(1, number(1))).step == 1

    held.gate.set()
    for at, stream in enumerate(streams, 1):
        assert int(arrays((await stream.read()).reply.outputs)["y"][0]) == checked([at])[0]
    await asyncio.sleep(welcome_after)
    reply = await session.replied(3, number(3))
    assert (reply.replayed, int(arrays(reply.outputs)["y"][0])) == (False, checked([1, 2, 3])[-1])
    assert held.in_flight == 0


async def test_a_replay_is_answered_to_a_unary_call_too(channel: grpc.aio.Channel, held: Held) -> None:
    streams = await opened(channel, 4)
    open_ = pb.Open(session_id="u", model="held", create_token=TOKEN)
    first = (await call(channel, open_, timestep(1, number(5)))).reply
    await held.fill(streams)
    again = (await call(channel, open_, timestep(1, number(5)))).reply
    assert (again.replayed, again.outputs) == (True, first.outputs)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(channel, open_, timestep(2, number(5)))
    assert fault_of(refused.value).reason == "OVERLOADED"
    held.gate.set()
    await until(lambda: held.in_flight < 4, "room for one more")
    assert (await call(channel, open_, timestep(2, number(5)))).reply.step == 2


async def test_the_higher_priority_goes_first(channel: grpc.aio.Channel, held: Held) -> None:
    streams = await opened(channel, 7)
    await held.fill(streams[:3])
    assert (await streams[5].refused(request(1, 1, priority=-5))).reason == "OVERLOADED"
    await streams[3].send(request(1, 1))
    await until(lambda: held.in_flight == 4, "four in flight")
    assert (await streams[6].refused(request(1, 1))).reason == "OVERLOADED"
    await streams[4].send(request(1, 1, priority=5))
    await until(lambda: held.in_flight == 5, "five in flight")
    held.gate.set()
    for stream in streams[:5]:
        assert (await stream.read()).reply.step == 1


async def test_who_comes_again_before_the_time_that_was_told_waits_and_is_sent_away(
    channel: grpc.aio.Channel, held: Held
) -> None:
    """Also when there is room by then: what it sent meanwhile is late, and what is behind it follows nothing."""
    *streams, hasty = await opened(channel, 5)
    held.loaded.admission._delay = 0.4
    await held.fill(streams)
    assert (await hasty.refused(request(1, 1))).reason == "OVERLOADED"
    held.gate.set()
    for stream in streams:
        await stream.read()
    await hasty.send(request(1, 1))
    await hasty.send(request(2, 2))
    early = fault((await hasty.read()).refused.status)
    assert (early.code, early.reason, early.retry_seconds) == (RESOURCE_EXHAUSTED, "OVERLOADED", 0.0)
    assert fault((await hasty.read()).refused.status).reason == "STEP_GAP"
    assert (await hasty.replied(1, number(1))).step == 1


@pytest.mark.parametrize(
    "fields", [{"priority": 1}, {"timeout": Duration(nanos=50_000_000)}], ids=["priority", "timeout"]
)
async def test_who_comes_again_with_a_higher_priority_or_a_timeout_does_not_wait_so_long(
    channel: grpc.aio.Channel, held: Held, fields: dict[str, Any]
) -> None:
    *streams, hasty = await opened(channel, 5)
    held.loaded.admission._delay = 100 * LONGEST
    await held.fill(streams)
    await hasty.refused(request(1, 1))
    held.gate.set()
    for stream in streams:
        await stream.read()
    async with asyncio.timeout(LONGEST):
        answer = await hasty.ask(request(1, 1, **fields))
    assert answer.WhichOneof("kind") == ("reply" if "priority" in fields else "refused")


async def test_who_waits_for_having_come_too_early_does_not_hold_a_drain(channel: grpc.aio.Channel, held: Held) -> None:
    *streams, hasty = await opened(channel, 5)
    held.loaded.admission._delay = 100 * LONGEST
    await held.fill(streams)
    for step in (1, 1):
        await hasty.send(request(step, 1))
    assert fault((await hasty.read()).refused.status).reason == "OVERLOADED"
    held.server.sessions.draining = True
    for stream in tuple(held.server.servicer.streams):
        stream.end(Draining("this replica is going", retry_after=0.0))
    held.gate.set()
    assert (await hasty.ended()).reason == "DRAINING"


async def test_those_who_leave_are_counted_out(channel: grpc.aio.Channel, held: Held) -> None:
    streams = await opened(channel, 4)
    await held.fill(streams)
    for stream in streams:
        stream.call.cancel()
    await until(lambda: held.in_flight == 0, "nothing in flight")
    held.gate.set()
    stream = WireStream(channel)
    await stream.open("new", "held")
    assert (await stream.replied(1, number(1))).step == 1


async def test_512_streams_of_a_fast_cell_are_never_refused(channel: grpc.aio.Channel) -> None:
    before = refusals("OVERLOADED")

    async def ride(at: int) -> None:
        stream = WireStream(channel)
        await stream.open(f"many{at}", "checker")
        for step in range(1, 5):
            await stream.replied(step, number(step))
        await stream.close()

    await asyncio.gather(*(ride(at) for at in range(512)))
    assert refusals("OVERLOADED") == before


async def test_a_thousand_messages_at_once_wait_their_turn(channel: grpc.aio.Channel, held: Held) -> None:
    """The server reads a message when the last one is answered: reading pauses, nothing fails, nothing piles up."""
    (stream,) = await opened(channel, 1)
    held.gate.clear()

    async def send() -> None:
        for step in range(1, 1001):
            await stream.send(request(step, step))

    sending = asyncio.create_task(send())
    await until(lambda: held.in_flight == 1, "one in flight")
    received = REGISTRY.get_sample_value(
        "grpc_server_msg_received_total",
        {"grpc_type": "bidi_stream", "grpc_service": "cellwire.v1.CellService", "grpc_method": "Stream"},
    )
    assert held.in_flight == 1
    held.gate.set()
    outputs = [int(arrays((await stream.read()).reply.outputs)["y"][0]) for _ in range(1000)]
    assert outputs == checked(list(range(1, 1001)))
    assert received is not None
    await sending


# ---- deadlines


def timeout(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


async def test_a_message_that_did_not_enter_a_batch_in_time_is_refused_and_its_number_not_used(
    channel: grpc.aio.Channel, held: Held
) -> None:
    running, late, other = await opened(channel, 3)
    await held.fill([running])
    await late.send(request(1, 1, timeout=timeout(0.001)))
    await until(lambda: held.in_flight == 2, "two in flight")
    await other.send(request(1, 4, timeout=timeout(3600)))
    await until(lambda: held.in_flight == 3, "three in flight")
    passed = asyncio.get_running_loop().time() + 0.001
    await until(lambda: asyncio.get_running_loop().time() > passed, "the deadline passed")
    held.gate.set()
    told = fault((await late.read()).refused.status)
    assert (told.code, told.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "STEP_DEADLINE")
    assert (await running.read()).reply.step == (await other.read()).reply.step == 1
    reply = await late.replied(1, number(2))
    assert int(arrays(reply.outputs)["y"][0]) == checked([2])[0]


async def test_a_message_of_many_timesteps_is_in_time_when_its_first_one_is(
    channel: grpc.aio.Channel, held: Held
) -> None:
    (stream,) = await opened(channel, 1)
    held.gate.clear()
    message = timestep(1, np.arange(1, 4)[:, None], timesteps=3)
    message.timeout.CopyFrom(timeout(0.05))
    await stream.send(pb.StreamRequest(timestep=message))
    passed = asyncio.get_running_loop().time() + 0.1
    await until(lambda: asyncio.get_running_loop().time() > passed, "the deadline passed")
    held.gate.set()
    response = await stream.read()
    assert (response.WhichOneof("kind"), response.reply.step) in {("reply", 3), ("refused", 0)}
    assert response.reply.step == 3


async def test_a_call_whose_deadline_passes_in_the_queue_is_not_executed(channel: grpc.aio.Channel, held: Held) -> None:
    (running,) = await opened(channel, 1)
    await held.fill([running])
    open_ = pb.Open(session_id="u", model="held", create_token=TOKEN)
    stub = cell_service_pb2_grpc.CellServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await stub.Step(pb.StepRequest(open=open_, timestep=timestep(1, number(1))), timeout=0.3)
    assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    held.gate.set()
    assert (await running.read()).reply.step == 1
    assert (await seen(channel, "u")).step == 0
    assert (await call(channel, open_, timestep(1, number(2)))).reply.step == 1


DURATIONS = [
    (0, 0),
    (-1, 0),
    (0, -1),
    (-1, -1),
    (1, -1),
    (0, 10**9),
    (315_576_000_001, 0),
    (2**63 - 1, 0),
    (-(2**63), 0),
]


@pytest.mark.parametrize(("seconds", "nanos"), DURATIONS)
async def test_a_duration_that_is_none_is_bad_input(channel: grpc.aio.Channel, seconds: int, nanos: int) -> None:
    stream = WireStream(channel)
    await stream.open("s", "checker")
    told = await stream.refused(request(1, 1, timeout=Duration(seconds=seconds, nanos=nanos)))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    assert told.fields == ("timeout",)
    assert (await stream.replied(1, number(1))).step == 1


# ---- clients that do not read, or are gone


def unread(port: int) -> grpc.aio.Channel:
    """A channel whose library takes little of what its client does not read."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=SMALL_WINDOW)


def wide(step: int) -> pb.StreamRequest:
    return pb.StreamRequest(timestep=timestep(step, np.array([step], np.float32)))


async def flood(stream: WireStream, messages: int) -> None:
    """Sends and never reads, until the stream is over; small messages, all of which the connection takes."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for step in range(1, messages + 1):
            await stream.send(wide(step))


async def read_out(stream: WireStream) -> tuple[list[int], Fault]:
    """The steps of the replies that are left, and what ended the stream."""
    steps = []
    try:
        while True:
            steps.append((await stream.read()).reply.step)
    except grpc.aio.AioRpcError as error:
        return steps, fault_of(error)


async def test_a_client_that_does_not_read_is_cut_off_and_its_state_kept(place: Place) -> None:
    before = refusals("SLOW_CONSUMER")
    async with replica(place, write_timeout=0.3) as server, unread(server.port) as channel:
        stream = WireStream(channel)
        opened = await stream.open("slow", "wide", create_token=TOKEN)
        sending = asyncio.create_task(flood(stream, 200))
        await until(lambda: not server.servicer.streams, "the stream is gone")
        assert not server.sessions.live
        assert refusals("SLOW_CONSUMER") == before + 1
        await server.sessions.settled()
        await until(lambda: not handlers(), f"no handler left, {handlers()}")

        # what it did not read is still there for it, and then the reason
        await sending
        steps, told = await read_out(stream)
        assert (told.code, told.reason) == (RESOURCE_EXHAUSTED, "SLOW_CONSUMER")
        last = len(steps)
        assert steps == list(range(1, last + 1))
        assert 1 < last < 200

        resumed = WireStream(channel)
        position = await resumed.open(
            "slow", "wide", create_token=TOKEN, mode=pb.OPEN_MODE_RESUME, found_epoch=opened.epoch
        )
        assert last <= position.step <= last + 1
        reply = (await resumed.ask(wide(last))).reply
        assert reply.replayed
        assert (await resumed.ask(wide(position.step + 1))).reply.step == position.step + 1
        await resumed.close()


def handlers() -> list[str]:
    """Tasks in which the library runs a handler of Stream."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if "HandleExceptions" in name and name.endswith("/Stream]")]


async def test_a_drain_does_not_wait_for_a_client_that_does_not_read(place: Place) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(replica(place, write_timeout=0.5, drain_seconds=3600))
        channel = await stack.enter_async_context(unread(server.port))
        stream = WireStream(channel)
        await stream.open("slow", "wide", create_token=TOKEN)
        sending = asyncio.create_task(flood(stream, 1000))
        await until(lambda: server.sessions.live, "the session is held")
        server.sessions.draining = True
        async with asyncio.timeout(LONGEST):
            await server.__aexit__(None, None, None)
        assert not server.servicer.streams
        sending.cancel()


async def test_many_clients_that_do_not_read_take_little_memory(
    children: Children, place: Place, tmp_path: Path
) -> None:
    count = 64
    process = ReplicaProcess(children, place, tmp_path, "flooded", write_timeout=2.0)
    target = process.target()
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target, options=SMALL_WINDOW))
        first = WireStream(channel)
        await first.open("first", "wide")
        await first.ask(wide(1))
        before = process.memory()
        streams = [WireStream(channel) for _ in range(count)]
        for at, stream in enumerate(streams):
            await stream.open(f"s{at}", "wide")
        sending = [asyncio.create_task(flood(stream, 1000)) for stream in streams]
        highest = before

        def cut_off() -> bool:
            nonlocal highest
            highest = max(highest, process.memory())
            return process.log.read_text().count("rpc.slow_consumer") == count

        await until(cut_off, "all are cut off")
        assert highest - before < count * 2**20
        assert (await first.ask(wide(2))).reply.step == 2
        for task in sending:
            task.cancel()
        await asyncio.wait(sending)
    assert process.terminate() == 0


async def test_a_client_that_vanished_half_open_is_found_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "KEEPALIVE_SECONDS", 0.3)
    monkeypatch.setattr(server_module, "KEEPALIVE_TIMEOUT", 0.3)
    async with replica(place) as server, Gate(f"127.0.0.1:{server.port}") as gate:
        async with grpc.aio.insecure_channel(gate.address) as channel:
            stream = WireStream(channel)
            opened = await stream.open("gone", "checker", create_token=TOKEN)
            await stream.replied(1, number(7))
            gate.freeze()
            await until(lambda: not server.servicer.streams, "the stream is gone")
            await server.sessions.settled()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stream = WireStream(channel)
            again = await stream.open("gone", "checker", mode=pb.OPEN_MODE_RESUME, found_epoch=opened.epoch)
            assert again.step == 1  # without a token: its lease was given up
            await stream.close()


# ---- caps


def violated(error: grpc.aio.AioRpcError) -> str:
    """The quota that an error names."""
    status = Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
    failure = QuotaFailure()
    assert any(detail.Unpack(failure) for detail in status.details)
    (violation,) = failure.violations
    return str(violation.description)


@pytest.mark.parametrize("cap", ["max_streams", "max_sessions"])
async def test_streams_and_sessions_are_capped(place: Place, cap: str) -> None:
    async with replica(place, **{cap: 2}) as server, AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", (("grpc.use_local_subchannel_pool", 1),))
            )
            for _ in range(3)
        ]
        held = [WireStream(channel) for channel in channels[:2]]
        for at, stream in enumerate(held):
            await stream.open(f"s{at}")
        third = WireStream(channels[2])
        await third.send(pb.StreamRequest(open=pb.Open(session_id="third", model="checker")))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await third.read()
        told = fault_of(refused.value)
        assert (told.code, told.reason, violated(refused.value)) == (RESOURCE_EXHAUSTED, "QUOTA", cap)
        assert told.retry_seconds
        for stream in held:
            assert (await stream.replied(1, number(1))).step == 1
        await held[0].close()
        await until(lambda: len(server.servicer.streams) == 1, "one has left")
        await WireStream(channels[2]).open("third")


async def test_a_stream_that_opens_nothing_counts_and_is_told_of_a_drain(place: Place) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(replica(place, max_streams=1, drain_seconds=3600))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.port}"))
        silent = WireStream(channel)
        await until(lambda: server.servicer.streams, "the stream is there")
        assert (await open_fault(channel, session_id="s", model="checker")).reason == "QUOTA"
        ending = asyncio.create_task(server.__aexit__(None, None, None))
        assert (await silent.ended()).reason == "DRAINING"
        await ending


async def test_timesteps_a_second_are_capped_and_replays_are_free(place: Place) -> None:
    async with replica(place, max_steps_per_second=5) as server:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stream = WireStream(channel)
            await stream.open()
            step, told = 0, None
            while told is None:
                response = await stream.step(step + 1, number(1))
                if response.WhichOneof("kind") == "reply":
                    step += 1
                else:
                    told = fault(response.refused.status)
            assert step >= 5
            assert (told.code, told.reason) == (RESOURCE_EXHAUSTED, "QUOTA")
            assert told.retry_seconds is not None
            assert told.retry_seconds <= 0.2
            for _ in range(20):
                assert (await stream.replied(step, number(1))).replayed
            await asyncio.sleep(told.retry_seconds + 0.001)
            await stream.replied(step + 1, number(1))
            await stream.close()
