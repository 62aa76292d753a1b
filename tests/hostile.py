"""What the tests of bad input and errors share: models that can fail, known answers, bytes in place of messages."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc, session_service_pb2, session_service_pb2_grpc
from models import cells
from tests.harness import WireStream, number, tensor
from tests.zoo import graph, write

PATIENCE = 20.0
"""Seconds until a condition that is polled counts as failed."""

_MIXED = graph(
    "(float[batch,2,3] x, int64[batch,1] index, bool[batch,2] mask, float[batch,1] state)"
    " => (float[batch,1] y, float[batch,1] state_out)",
    """
    table = Constant<value = float[10] {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}>()
    row = Gather(table, index)
    flags = Cast<to = 1>(mask)
    one = Constant<value = int64[1] {1}>()
    flat_shape = Constant<value = int64[2] {-1, 6}>()
    flat = Reshape(x, flat_shape)
    total = ReduceSum(flat, one)
    count = ReduceSum(flags, one)
    a = Add(total, row)
    b = Add(a, count)
    c = Add(b, state)
    y = Tanh(c)
    state_out = Identity(y)
    """,
)
_LOOSE = graph(
    "(int64[batch,1] index, float[batch,1] state) => (float[batch,1] y, float[batch,1] state_out)",
    """
    table = Constant<value = float[4] {0.1, 0.2, 0.3, 0.4}>()
    row = Gather(table, index)
    a = Add(row, state)
    y = Tanh(a)
    state_out = Identity(y)
    """,
)
_WILD = graph(
    "(float[batch,2] x, float[batch,1] state) => (float[batch,1] y, float[batch,1] state_out)",
    """
    one = Constant<value = int64[2] {1, 1}>()
    shown, kept = Split<axis = 1>(x, one)
    e = Exp(shown)
    y = Add(e, state)
    f = Exp(kept)
    half = Constant<value = float {0.5}>()
    g = Mul(state, half)
    state_out = Add(f, g)
    """,
)
_WIDE = graph(
    "(double[batch,1] x, double[batch,1] state) => (double[batch,1] y, double[batch,1] state_out)",
    "a = Add(x, state) half = Constant<value = double {0.5}>() y = Mul(a, half) state_out = Identity(y)",
)
_SMOOTH = graph(
    "(float[batch,4] x, float[batch,4] state) => (float[batch,4] y, float[batch,4] state_out)",
    "half = Constant<value = float {0.5}>() a = Mul(x, half) b = Mul(state, half) state_out = Add(a, b)"
    " y = Identity(state_out)",
)
_TUNED = graph(
    "(float[batch,1] x, float[batch,1] bias, float[batch,1] state) => (float[batch,1] y, float[batch,1] state_out)",
    "a = Add(x, state) b = Add(a, bias) y = Tanh(b) state_out = Identity(y)",
)


def write_models(root: Path) -> None:
    """A repository: `checker` in two versions, and small graphs that take, or fail on, what a client may send.

    `mixed` has three inputs, an index into ten rows among them; `loose` such an index without a declared range;
    `wild` gives an infinity in its output for x[0] > 88, in its state for x[1] > 88; `wide` takes float64;
    `smooth` any finite float32; `tuned` a constant input at open.
    """
    for version in ("1", "2"):
        write(root, cells.checker(), "{}\n", name="checker", version=version)
    ranged = "inputs: [{name: x}, {name: index, low: 0, high: 9}, {name: mask}]\n"
    write(root, _MIXED, ranged, name="mixed")
    write(root, _TUNED, "inputs: [{name: x}]\nconstants: [{name: bias}]\n", name="tuned")
    for name, model in (("loose", _LOOSE), ("wild", _WILD), ("wide", _WIDE), ("smooth", _SMOOTH)):
        write(root, model, "{}\n", name=name)


def good(model: str, step: int) -> pb.Timestep:
    """A timestep that every check lets pass, its tensors by name, other numbers for each step."""
    x = np.float32(step) / 8
    inputs = {
        "checker": {"x": number(step * 7)},
        "mixed": {
            "x": np.full((2, 3), x, np.float32),
            "index": number(step % 10),
            "mask": np.array([True, bool(step % 2)]),
        },
        "loose": {"index": number(step % 4)},
        "wild": {"x": np.array([x, -x], np.float32)},
        "wide": {"x": np.array([x], np.float64)},
        "smooth": {"x": np.full(4, x, np.float32)},
        "tuned": {"x": np.array([x], np.float32)},
    }[model]
    return pb.Timestep(step=step, inputs=[tensor(array, name) for name, array in inputs.items()])


async def undisturbed(channel: grpc.aio.Channel, model: str, steps: int) -> list[bytes]:
    """The stored part of the answers to the good steps 1 .. of a session that nothing happened to."""
    stream = WireStream(channel)
    await stream.open(f"undisturbed-{model}-{time.monotonic_ns()}", model)
    answers = []
    for step in range(1, steps + 1):
        response = await stream.ask(pb.StreamRequest(timestep=good(model, step)))
        assert response.WhichOneof("kind") == "reply", response
        answers.append(response.reply.outputs.SerializeToString())
    await stream.close()
    return answers


def _serialized(message: pb.StreamRequest | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


class RawStream(WireStream):
    """A stream on which bytes may go out in the place of a message."""

    def _begin(self, channel: grpc.aio.Channel) -> Any:
        return channel.stream_stream(
            "/cellwire.v1.CellService/Stream",
            request_serializer=_serialized,
            response_deserializer=pb.StreamResponse.FromString,
        )()

    async def send_bytes(self, raw: bytes) -> None:
        """Sends them as they are."""
        await self.call.write(raw)


async def call(channel: grpc.aio.Channel, open_: pb.Open, timestep: pb.Timestep) -> pb.StepResponse:
    """One unary Step."""
    stub = cell_service_pb2_grpc.CellServiceStub(channel)
    response: pb.StepResponse = await stub.Step(pb.StepRequest(open=open_, timestep=timestep))
    return response


async def seen(channel: grpc.aio.Channel, session_id: str) -> session_service_pb2.Session:
    """The session as SessionService shows it."""
    stub = session_service_pb2_grpc.SessionServiceStub(channel)
    response = await stub.GetSession(session_service_pb2.GetSessionRequest(session_id=session_id))
    session: session_service_pb2.Session = response.session
    return session


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Polls until it is true."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, "the condition was never met"
        await asyncio.sleep(0.005)


@contextmanager
def counted(reason: str) -> Iterator[None]:
    """Every error that a client is told is counted, once, under its reason."""

    def count() -> float:
        return REGISTRY.get_sample_value("cellwire_refused_total", {"reason": reason}) or 0.0

    before = count()
    yield
    assert count() == before + 1


@asynccontextmanager
async def store_client(url: str) -> AsyncIterator[Redis]:
    """A client of the store, to look at and to spoil the test's own keys."""
    client: Redis = Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def writes_held(url: str) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """The store holds every write back; what is given tells whether a commit of ours waits there."""
    async with store_client(url) as store:

        async def waiting() -> bool:
            clients = await store.client_list()
            return any(c["name"] == "cellwire-writes" and "b" in c["flags"] for c in clients)

        await store.client_pause(60_000, all=False)
        try:
            yield waiting
        finally:
            await store.client_unpause()
