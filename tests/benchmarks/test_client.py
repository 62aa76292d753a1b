"""The client of the benchmarks, against real servers: it counts what was answered, and nothing else."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from benchmarks.baselines import echo, naive
from benchmarks.client import library
from benchmarks.client.cellwire_talks import CellwireMany, CellwireStream
from benchmarks.client.http2 import CallFailed
from benchmarks.client.meter import Meter
from benchmarks.client.other_talks import ECHO, NAIVE, talks
from benchmarks.client.programs import WINDOW, Load
from benchmarks.client.talk import Refused, Shape, WrongAnswer
from benchmarks.client.task import Task, Told
from cellwire.v1 import cell_service_pb2 as pb
from service import metrics
from service.server import Server

SHAPE = Shape(model="lstm", inputs=(("x", (4,)),), outputs=2)
TASK = Task(shape=SHAPE, dialect="cellwire", streams=4, connections=2, warm=0.05, seconds=0.5)


async def told(target: str, task: Task) -> Told:
    """By a client in this process."""
    make_talk, meter = talks(task.dialect, task.shape, task.reply_bytes), Meter({"server": [os.getpid()]})
    task = replace(task, target=target, prefix=f"{task.prefix}{os.urandom(4).hex()}")
    if task.library:
        return await library.closed(task, make_talk, meter)
    return await Load(task, make_talk, meter).run()


def run_by_cells() -> float:
    """Timesteps, in this process, since it started."""
    [family] = metrics.BATCH_SIZE.collect()
    return sum(sample.value for sample in family.samples if sample.name == "cellwire_batch_size_sum")


@asynccontextmanager
async def served(path: str, handler: Any, *options: tuple[str, int]) -> AsyncIterator[str]:
    """The address of a bare server with one streaming method."""
    server = grpc.aio.server(options=options)
    service, _, method = path[1:].partition("/")
    handlers = {method: grpc.stream_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        replace(TASK, library=True),
        replace(TASK, in_flight=1),
        replace(TASK, dialect="cellwire_unary"),
        replace(TASK, program="open", rate=100.0),
        replace(TASK, shape=replace(SHAPE, timesteps=3)),
        replace(TASK, shape=replace(SHAPE, write_behind=True)),
    ],
    ids=["closed", "library", "in turn", "unary", "open", "timesteps", "write-behind"],
)
async def test_what_counts_as_a_timestep_was_run_by_a_cell(server: Server, task: Task) -> None:
    before = run_by_cells()
    seen = await told(f"127.0.0.1:{server.port}", task)
    under_way = task.streams * task.shape.message_timesteps * 8  # a window of each
    assert seen.steps <= seen.all_steps
    assert 0 < seen.all_steps <= run_by_cells() - before <= seen.all_steps + under_way
    assert seen.resident["server"][1] > 0


async def test_streams_take_turns_when_fewer_are_in_flight(server: Server) -> None:
    sent = []

    class Noted(CellwireStream):
        def message(self, number: int) -> bytes:
            sent.append((self.name[-1], number))
            return super().message(number)

    task = replace(TASK, target=f"127.0.0.1:{server.port}", in_flight=2)
    await Load(task, lambda name: Noted(f"{os.urandom(4).hex()}-{name}", SHAPE), Meter({})).run()
    first = sent[:12]
    assert sorted(first) == sorted((name, number) for name in "0123" for number in (1, 2, 3))


async def test_churn_goes_through_as_many_sessions_as_it_is_told(server: Server) -> None:
    before = run_by_cells()
    task = replace(TASK, program="churn", sessions=10, steps_a_session=3, shape=replace(SHAPE, keep=True))
    seen = await told(f"127.0.0.1:{server.port}", task)
    assert (seen.sessions, seen.steps) == (10, 30)
    assert run_by_cells() - before == 30


async def test_idle_streams_make_one_step_each_and_stay_open(server: Server) -> None:
    task = replace(TASK, program="idle", streams=20)
    seen = await told(f"127.0.0.1:{server.port}", task)
    assert seen.steps == 20


async def test_a_session_that_cannot_be_opened_fails_the_measurement(server: Server) -> None:
    task = replace(TASK, shape=replace(SHAPE, model="unknown"))
    with pytest.raises(CallFailed, match="status 5: no such model"):
        await told(f"127.0.0.1:{server.port}", task)


async def test_a_call_that_is_not_served_fails_the_measurement(server: Server) -> None:
    with pytest.raises(CallFailed, match="status 12"):
        await told(f"127.0.0.1:{server.port}", replace(TASK, dialect="naive"))


SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1000), ("grpc.http2.max_frame_size", 16384))


@pytest.mark.parametrize("size", [10, 300_000], ids=["small", "beyond frames and windows"])
async def test_an_echo_has_the_bytes_that_were_asked_for(size: int) -> None:
    shape = Shape(inputs=(("x", (size // 4,)),))
    async with served(ECHO, echo.stream, *SMALL_WINDOW) as target:
        seen = await told(target, replace(TASK, dialect="echo", shape=shape, reply_bytes=size))
    assert seen.messages > 0
    assert seen.reply_bytes == size
    assert seen.request_bytes > size - 4


async def test_what_is_due_beyond_an_open_loop_s_window_is_sent_late_and_was_due_then() -> None:
    """Of a server that takes ten times as long as there is between two messages."""

    async def slow(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        reply = bytes(int(await anext(requests)))
        yield reply
        async for _request in requests:
            await asyncio.sleep(0.01)
            yield reply

    task = replace(TASK, dialect="echo", program="open", streams=1, rate=1000.0, reply_bytes=20)
    async with served(ECHO, slow) as target:
        seen = await told(target, task)
    window_ms = 10.0 * WINDOW
    assert seen.p50_ms > 2 * window_ms  # at once was sent only what fits into the window


async def test_sessions_that_a_stream_of_many_refuses_are_counted_and_asked_again() -> None:
    """The second of two is refused each second time that it comes."""
    asked: list[tuple[int, ...]] = []

    async def stubborn(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        opening = pb.StreamManyRequest.FromString(await anext(requests))
        opened = [pb.HandleOpened(handle=each.handle) for each in opening.opens]
        yield pb.StreamManyResponse(opened=opened).SerializeToString()
        async for request in requests:
            [columns] = pb.StreamManyRequest.FromString(request).timesteps
            asked.append(tuple(columns.steps))
            answered = 1 if len(asked) % 2 else 2
            reply = pb.ReplyColumns(handles=columns.handles[:answered], steps=columns.steps[:answered])
            refused = [pb.HandleRefused(handle=2)] if answered == 1 else []
            yield pb.StreamManyResponse(replies=[reply], refused=refused).SerializeToString()

    task = replace(TASK, dialect="cellwire_many", shape=replace(SHAPE, sessions=2), streams=1, in_flight=1)
    async with served(CellwireMany.path, stubborn) as target:
        seen = await told(target, task)
    assert asked[:5] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)]
    assert seen.messages > 0
    assert seen.refused == pytest.approx(seen.messages / 2, abs=1)
    assert seen.steps + seen.refused == 2 * seen.messages


async def test_an_echo_of_another_length_is_a_wrong_answer() -> None:
    async def short(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for _request in requests:
            yield b"?"

    async with served(ECHO, short) as target:
        with pytest.raises(WrongAnswer, match="another length"):
            await told(target, replace(TASK, dialect="echo", reply_bytes=20))


def test_a_refusal_says_when_it_may_come_again() -> None:
    details = Packed()
    details.Pack(RetryInfo(retry_delay=Duration(nanos=250_000_000)))
    refused = pb.Refused(step=7, status=Status(message="too much", details=[details]))
    talk = CellwireStream("s-1", SHAPE)
    with pytest.raises(Refused, match="step 7 was refused: too much") as caught:
        talk.complete(pb.StreamResponse(refused=refused).SerializeToString(), 7)
    assert (caught.value.step, caught.value.retry_after) == (7, 0.25)


@pytest.mark.parametrize("number", [1, 127, 128, 20_000])
def test_a_message_is_what_the_protocol_says(number: int) -> None:
    talk = CellwireStream("s-1", SHAPE)
    timestep = pb.StreamRequest.FromString(talk.message(number)).timestep
    assert (timestep.step, timestep.timesteps, len(timestep.inputs)) == (number, 0, 1)
    assert list(timestep.inputs[0].shape) == [4]
    reply = pb.StreamResponse(reply=pb.Reply(step=number, h=bytes(16), epoch=2**50))
    assert talk.complete(reply.SerializeToString(), number) == 1
    with pytest.raises(WrongAnswer):
        talk.complete(reply.SerializeToString(), number + 1)


async def test_the_naive_server_advances_the_state_that_it_keeps(test_models: Path) -> None:
    model = naive.session(test_models / "lstm" / "1" / "model.onnx")
    x = np.arange(4, dtype=np.float32)
    async with served(NAIVE, naive.Naive(model, *naive.memory()).stream) as target:
        async with grpc.aio.insecure_channel(target) as channel:
            call = channel.stream_stream(NAIVE)()
            await call.write(b"s-1")
            assert await call.read() == b""
            answers = []
            for _ in range(3):
                await call.write(x.tobytes())
                answers.append(np.frombuffer(await call.read(), np.float32))
            call.cancel()
    np.testing.assert_array_equal(answers, uninterrupted(model, x, 3))


def uninterrupted(model: ort.InferenceSession, x: np.ndarray, steps: int) -> list[np.ndarray]:
    """The outputs of a run without a server."""
    hidden = cell = np.zeros((1, 1, 16), np.float32)
    outputs = []
    for _ in range(steps):
        y, hidden, cell = model.run(["y", "hidden_out", "cell_out"], {"x": x[None], "hidden": hidden, "cell": cell})
        outputs.append(y[0])
    return outputs
