"""Hostile messages to a replica in a process of its own, and hostile hands on its store: it lives, what is refused has
changed nothing, and the next valid step goes on."""

import asyncio
import uuid
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import example, given
from hypothesis import strategies as st
from redis import Redis

from cellwire.cli.children import Children
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import model_service_pb2 as model_pb
from cellwire.v1 import session_service_pb2 as session_pb
from cellwire.v1 import session_service_pb2_grpc
from models.cells import checked
from service import errors
from service.codec import OpenRequest, Unreadable, decode_open, reader
from service.store.keys import session_key
from tests.harness import Place, ReplicaProcess, WireStream, arrays, fault, fault_of, number, tensor
from tests.hostile import RawStream, call, seen
from tests.messages import fields_of, mutations
from tests.waiting import until

REASONS = {kind.reason for kind in errors.CellwireError.__subclasses__()} - {"INTERNAL"}
"""The closed list, less the one that stands for what nobody foresaw."""
T = TypeVar("T")
TOKEN = bytes(range(16))


@dataclass
class Scene:
    """One replica for all examples, and the loop that its channel belongs to."""

    runner: asyncio.Runner
    replica: ReplicaProcess
    channel: grpc.aio.Channel
    redis: Any
    tenant: str

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """One example; the replica has outlived it."""
        result = self.runner.run(work)
        assert self.replica.child.poll() is None
        return result


@pytest.fixture(scope="module")
def scene(store_url: str, test_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    place = Place(store_url, f"t{uuid.uuid4().hex[:12]}", (test_models,))
    with Children() as children, asyncio.Runner() as runner:
        replica = ReplicaProcess(children, place, tmp_path_factory.mktemp("fuzz"), "replica")
        target = replica.target()

        async def connect() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(target)

        channel = runner.run(connect())
        redis = Redis.from_url(store_url)
        yield Scene(runner, replica, channel, redis, place.tenant)
        runner.run(channel.close())
        redis.close()
        assert "internal_error" not in replica.log.read_text()


def refusal(error: grpc.aio.AioRpcError) -> str:
    """The reason of an error, which is of the closed list and names a field where input is bad."""
    told = fault_of(error)
    assert told.reason in REASONS, told
    assert bool(told.fields) == (told.reason == "INVALID_INPUT"), told
    return told.reason


def timestep_of(step: int, *values: int) -> pb.StreamRequest:
    """A valid message of `checker`, one timestep a value."""
    timesteps = len(values) if len(values) > 1 else 0
    x = np.array(values, np.int64).reshape((timesteps, 1) if timesteps else (1,))
    return pb.StreamRequest(timestep=pb.Timestep(step=step, timesteps=timesteps, inputs=[tensor(x, "x")]))


def inputs_of(raw: bytes) -> list[int]:
    """The values of a message that was accepted."""
    message = pb.StreamRequest.FromString(raw)
    return [int(x) for x in np.frombuffer(message.timestep.inputs[0].data, np.int64)]


stream_messages: st.SearchStrategy[bytes] = st.one_of(
    mutations(timestep_of(2, 14).SerializeToString()),
    mutations(timestep_of(2, 3, 5, 8).SerializeToString()),
    mutations(pb.StreamRequest(close=pb.Close(step=1)).SerializeToString()),
    mutations(pb.StreamRequest(open=pb.Open(session_id="s", model="checker")).SerializeToString()),
    fields_of(pb.StreamRequest).map(lambda message: message.SerializeToString()),
    st.binary(max_size=80),
)


@given(st.lists(stream_messages, min_size=1, max_size=4))
def test_mutated_messages_on_a_live_stream_change_nothing_or_are_steps(scene: Scene, messages: list[bytes]) -> None:
    scene.run(_ridden(scene, messages))


async def _ridden(scene: Scene, messages: list[bytes]) -> None:
    name = uuid.uuid4().hex
    stream = RawStream(scene.channel)
    await stream.open(name, create_token=TOKEN)
    taken = [7]
    h = (await stream.replied(1, number(7))).h
    for raw in messages:
        await stream.send_bytes(raw)
        response = await stream.read()
        match response.WhichOneof("kind"):
            case "refused":
                told = fault(response.refused.status)
                assert told.reason in REASONS
                assert bool(told.fields) == (told.reason == "INVALID_INPUT"), told
            case "reply" if not response.reply.replayed:
                values = inputs_of(raw)
                assert pb.StreamRequest.FromString(raw).timestep.step == len(taken) + 1
                taken += values
                assert [int(y) for y in arrays(response.reply.outputs)["y"].flat] == checked(taken)[-len(values) :]
                h = response.reply.h
            case "reply":
                assert response.reply.step <= len(taken)
            case "closed":
                now = await seen(scene.channel, name)
                assert (now.step, now.closed) == (len(taken), not pb.StreamRequest.FromString(raw).close.keep)
                stream.call.cancel()
                return
            case other:
                raise AssertionError(other)
        now = await seen(scene.channel, name)
        assert (now.step, now.h, now.closed) == (len(taken), h, False)
    reply = await stream.replied(len(taken) + 1, number(21))
    assert int(arrays(reply.outputs)["y"][0]) == checked([*taken, 21])[-1]
    await stream.close()


OPEN = pb.Open(session_id="s-1", create_token=TOKEN, model="checker", version="1", found_epoch=3)
opens: st.SearchStrategy[bytes] = st.one_of(
    fields_of(pb.Open).map(lambda message: message.SerializeToString()),
    mutations(OPEN.SerializeToString()),
    st.binary(max_size=60),
)


@example(raw=pb.Open(session_id="s-1", mode=pb.OPEN_MODE_RESUME, model="\U00010348" * 100).SerializeToString())
@given(opens)
def test_a_hostile_open_is_refused_or_what_it_asks_for_and_its_batch_goes_on(scene: Scene, raw: bytes) -> None:
    scene.run(_opened(scene, raw))


async def _opened(scene: Scene, raw: bytes) -> None:
    wrapped = pb.StreamRequest()
    hostile, neighbour = RawStream(scene.channel), WireStream(scene.channel)
    message = reader(pb.Open.FromString)(raw)
    if isinstance(message, Unreadable):
        await hostile.send_bytes(raw)
    else:
        wrapped.open.CopyFrom(message)
        await hostile.send(wrapped)
    opened, answer = await asyncio.gather(neighbour.open(uuid.uuid4().hex), hostile.read(), return_exceptions=True)
    assert isinstance(opened, pb.Opened), opened
    if isinstance(answer, grpc.aio.AioRpcError):
        refusal(answer)
    else:
        assert isinstance(answer, pb.StreamResponse)
        assert answer.WhichOneof("kind") == "opened"
        assert isinstance(message, pb.Open)
        assert isinstance(decode_open(message), OpenRequest)
    hostile.call.cancel()
    await neighbour.replied(1, number(7))
    await neighbour.close()


UNARY: dict[str, type[Message]] = {
    "CellService/Step": pb.StepRequest,
    "ModelService/GetModel": model_pb.GetModelRequest,
    "ModelService/ListModels": model_pb.ListModelsRequest,
    "SessionService/GetSession": session_pb.GetSessionRequest,
    "SessionService/ListSessions": session_pb.ListSessionsRequest,
    "SessionService/CloseSession": session_pb.CloseSessionRequest,
    "SessionService/ForkSession": session_pb.ForkSessionRequest,
    "SessionService/RewindSession": session_pb.RewindSessionRequest,
    "SessionService/ExportSession": session_pb.ExportSessionRequest,
    "SessionService/ImportSession": session_pb.ImportSessionRequest,
}
STEP = pb.StepRequest(open=OPEN, timestep=timestep_of(1, 7).timestep).SerializeToString()


@given(data=st.data())
@pytest.mark.parametrize("method", UNARY)
def test_a_hostile_call_is_refused_or_answered(scene: Scene, method: str, data: st.DataObject) -> None:
    made = fields_of(UNARY[method]).map(lambda message: message.SerializeToString())
    raw = data.draw(made | st.binary(max_size=40) | (mutations(STEP) if method.endswith("/Step") else made))

    async def asked() -> None:
        ask = scene.channel.unary_unary(f"/cellwire.v1.{method}", request_serializer=bytes)
        try:
            await ask(raw, timeout=20)
        except grpc.aio.AioRpcError as error:
            refusal(error)

    scene.run(asked())


# Hands on the store


DAMAGE: st.SearchStrategy[Mapping[str, bytes | None]] = st.dictionaries(
    st.sampled_from(["i", "e", "o", "p", "n", "h", "c", "s", "x", "m", "l", "f", "u", "r0", "r1", "z"]),
    st.one_of(
        st.none(),
        st.binary(max_size=40),
        st.binary(min_size=16, max_size=16),
        st.sampled_from([b"nan", b"0x1", b"-1", b"1.5", b"9" * 30, b"9" * 15, b"c", b"m/1/ab", b"2", b"0"]),
    ),
    min_size=1,
    max_size=3,
)
NEXT = ("take over", "call", "close by token")
"""What is done to a session that no stream holds any more."""
RELEASED = {"l", "u"}
"""What a stream that ends may write behind its error."""
CLAIMED = {"e", "o", "p", *RELEASED}
"""What a claim writes. A state or options that cannot be read are found out behind it."""


@pytest.mark.parametrize("what", ["step", "close", "kill", "get", "list", *NEXT])
@example(damage={"i": None})
@example(damage={"n": b"9" * 30})
@example(damage={"u": b"9" * 15, "l": b"9" * 15})
@given(damage=DAMAGE)
def test_a_damaged_session_is_an_error_of_its_own(scene: Scene, what: str, damage: Mapping[str, bytes | None]) -> None:
    scene.run(_damaged(scene, what, damage))


async def _damaged(scene: Scene, what: str, damage: Mapping[str, bytes | None]) -> None:
    name = uuid.uuid4().hex
    stream, neighbour = WireStream(scene.channel), WireStream(scene.channel)
    opened = await stream.open(name, create_token=TOKEN)
    await neighbour.open(f"{name}-neighbour")
    for each in (stream, neighbour):
        await each.replied(1, number(7))
    key = session_key(scene.tenant, name)
    if what in NEXT:
        await stream.close()
        await until(lambda: scene.redis.hget(key, "l") == b"0", "the stream's lease is given up")
    for field, value in damage.items():
        scene.redis.hdel(key, field) if value is None else scene.redis.hset(key, field, value)
    was = scene.redis.hgetall(key)
    told, _ = await asyncio.gather(_done(scene, what, name, opened.epoch, stream), neighbour.replied(2, number(14)))
    now = scene.redis.hgetall(key)
    if told is not None:
        assert told in REASONS
        changed = {field.decode() for field in was.keys() | now.keys() if was.get(field) != now.get(field)}
        assert changed <= (CLAIMED if what in NEXT else RELEASED), (told, changed)
    reply = await neighbour.replied(3, number(21))
    assert int(arrays(reply.outputs)["y"][0]) == checked([7, 14, 21])[-1]
    stream.call.cancel()
    await neighbour.close()


async def _done(scene: Scene, what: str, name: str, epoch: int, stream: WireStream) -> str | None:
    """Does it: the reason of the error that it was answered with, if it was."""
    method = scene.channel.unary_unary
    claim = pb.Open(session_id=name, create_token=TOKEN, model="checker", found_epoch=epoch)
    try:
        match what:
            case "step" | "close":
                step = timestep_of(2, 14)
                response = await stream.ask(step if what == "step" else pb.StreamRequest(close=pb.Close(step=1)))
                if response.WhichOneof("kind") == "notice":
                    return fault(response.notice.status).reason
                assert response.WhichOneof("kind") in ("reply", "closed")
            case "take over":
                newer = WireStream(scene.channel)
                await newer.ask(pb.StreamRequest(open=claim))
                newer.call.cancel()
            case "call":
                await call(scene.channel, claim, timestep_of(2, 14).timestep)
            case "get":
                await seen(scene.channel, name)
            case "list":
                assert f"{name}-neighbour" in await _listed(scene)
            case _:
                token = TOKEN if what == "close by token" else b""
                request = session_pb.CloseSessionRequest(session_id=name, create_token=token)
                await method("/cellwire.v1.SessionService/CloseSession", type(request).SerializeToString)(request)
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    return None


async def _listed(scene: Scene) -> set[str]:
    stub, found, page = session_service_pb2_grpc.SessionServiceStub(scene.channel), set(), ""
    while True:
        answer = await stub.ListSessions(session_pb.ListSessionsRequest(page_token=page, page_size=1000))
        found |= {session.session_id for session in answer.sessions}
        page = answer.next_page_token
        if not page:
            return found
