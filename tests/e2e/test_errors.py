"""The closed list of errors: each that this release can give is provoked, and has its google.rpc details.

And what never reaches a client: the text of an exception, a traceback, a path, a token. And stored state that is
damaged (07 E, by number): every byte of it is treated as hostile.
"""

import asyncio
import os
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import grpc
import numpy as np
import pytest
import pytest_asyncio
import structlog
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from redis.asyncio import Redis
from structlog.testing import capture_logs

from cellwire.cli.embedded import EmbeddedStore
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import model_service_pb2 as model_pb
from cellwire.v1 import resume_pb2, session_service_pb2_grpc
from cellwire.v1 import session_service_pb2 as session_pb
from models.cells import checked
from service import errors, logs
from service.admission import Rate
from service.cells import LoadedCell
from service.codec import encode_status
from service.errors import CellwireError
from service.model.cell import Cell
from service.model.repository import Repository
from service.server import SERVICES, Server
from service.store.keys import session_key
from service.values import CellResult, CellWork, incarnation_of
from tests.harness import Fault, Place, WireStream, arrays, fault, fault_of, number, open_fault, replica
from tests.hostile import RawStream, call, good, seen, store_client, until, write_models, writes_held

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = b"create-token-16b"
DELAYED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
RING = 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    write_models(root)
    return root


@pytest.fixture(scope="module")
def place(store_url: str, models: Path) -> Place:
    return Place(store_url, f"t{uuid.uuid4().hex[:12]}", (models,))


@pytest.fixture
def own_place(own_store: EmbeddedStore, models: Path) -> Place:
    return Place(own_store.url, "own", (models,))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(place: Place) -> AsyncIterator[Server]:
    async with replica(place, ring=RING, window=1) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with connected(server) as channel:
        yield channel


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(store_url: str) -> AsyncIterator[Redis]:
    async with store_client(store_url) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A session id of the test's own."""
    return uuid.uuid4().hex


def connected(server: Server) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")


# The closed list


@dataclass(frozen=True)
class Scene:
    """What a provocation has at hand: a session of two steps, its stream, the replica and the store under it."""

    channel: grpc.aio.Channel
    place: Place
    redis: Redis
    name: str
    stream: RawStream
    opened: pb.Opened
    h: bytes

    async def refused(self, request: pb.StreamRequest) -> Fault:
        await self.stream.send(request)
        response = await self.stream.read()
        assert response.WhichOneof("kind") == "refused", response
        return fault(response.refused.status)

    async def reopened(self, **fields: object) -> Fault:
        return await open_fault(self.channel, **{**self.claim, **fields})

    @property
    def claim(self) -> dict[str, Any]:
        return {
            "session_id": self.name,
            "model": "checker",
            "create_token": TOKEN,
            "found_epoch": self.opened.epoch,
        }

    def point(self, step: int, h: bytes) -> resume_pb2.ResumePoint:
        received = resume_pb2.Checkpoint(step=step, h=h)
        return resume_pb2.ResumePoint(received=received, durable_step=step, store_id=self.opened.store_id)

    @property
    def key(self) -> bytes:
        return session_key(self.place.tenant, self.name)


async def scene(channel: grpc.aio.Channel, place: Place, redis: Redis, name: str, model: str = "checker") -> Scene:
    stream = RawStream(channel)
    opened = await stream.open(name, model, create_token=TOKEN, version="1")
    h = b""
    for step in (1, 2):
        response = await stream.ask(pb.StreamRequest(timestep=good(model, step)))
        h = response.reply.h
    return Scene(channel, place, redis, name, stream, opened, h)


def _timestep(step: int, value: int = 0) -> pb.StreamRequest:
    timestep = good("checker", step)
    timestep.inputs[0].data = number(value or step * 7).tobytes()
    return pb.StreamRequest(timestep=timestep)


async def _open_expected(on: Scene) -> Fault:
    stream = WireStream(on.channel)
    await stream.send(_timestep(1))
    return await stream.ended()


async def _busy(on: Scene) -> Fault:
    return await on.reopened(create_token=b"", mode=pb.OPEN_MODE_RESUME)


async def _superseded(on: Scene) -> Fault:
    newer = WireStream(on.channel)
    await newer.open(**on.claim)
    await newer.close()
    return await on.stream.ended()


async def _closed(on: Scene) -> Fault:
    await on.stream.ask(pb.StreamRequest(close=pb.Close(step=2)))
    return await on.reopened()


async def _other_life(on: Scene) -> Fault:
    point = on.point(2, on.h)
    point.incarnation = incarnation_of(b"another")
    return await on.reopened(create_token=b"", resume_point=point)


async def _codec_too_new(on: Scene) -> Fault:
    await on.redis.hset(on.key, "s", _resealed(await _stored(on, "s"), version=2))
    return await on.reopened()


async def _corrupt(on: Scene) -> Fault:
    await on.redis.hset(on.key, "s", b"")
    return await on.reopened()


async def _expired(on: Scene) -> Fault:
    await on.redis.delete(on.key)
    return await on.reopened(resume_point=on.point(2, on.h))


async def _lost(on: Scene) -> Fault:
    await on.redis.delete(on.key)
    await on.stream.send(_timestep(3))
    return await on.stream.ended()


async def _regressed(on: Scene) -> Fault:
    return await on.reopened(resume_point=on.point(9, on.h))


async def _model_not_here(on: Scene) -> Fault:
    async with replica(on.place, load="smooth") as other, connected(other) as elsewhere:
        return await open_fault(elsewhere, **{**on.claim, "model": ""}, mode=pb.OPEN_MODE_RESUME)


async def _model_changed(on: Scene) -> Fault:
    return await on.reopened(version="2")


async def _non_finite(on: Scene) -> Fault:
    wild = await scene(on.channel, on.place, on.redis, f"{on.name}-wild", "wild")
    bad = good("wild", 3)
    bad.inputs[0].data = np.full(2, 100, np.float32).tobytes()
    return await wild.refused(pb.StreamRequest(timestep=bad))


async def _model_failed(on: Scene) -> Fault:
    loose = await scene(on.channel, on.place, on.redis, f"{on.name}-loose", "loose")
    bad = good("loose", 3)
    bad.inputs[0].data = number(4).tobytes()
    return await loose.refused(pb.StreamRequest(timestep=bad))


async def _too_old(on: Scene) -> Fault:
    await on.stream.ask(_timestep(3))
    return await on.refused(_timestep(1))


async def _unsupported(on: Scene) -> Fault:
    fork = session_pb.ForkSessionRequest(session_id=on.name)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await session_service_pb2_grpc.SessionServiceStub(on.channel).ForkSession(fork)
    return fault_of(error.value)


async def _full(on: Scene) -> Fault:
    """The store of this replica is the test's own."""
    await on.redis.config_set("maxmemory", "1mb")
    told = await on.refused(_timestep(3))
    await on.redis.config_set("maxmemory", "0")
    return told


async def _unavailable(on: Scene) -> Fault:
    async with writes_held(on.place.store_url):
        await on.stream.send(_timestep(3))
        return await on.stream.ended()


async def _draining(on: Scene) -> Fault:
    leaving = replica(on.place)
    other = await leaving.__aenter__()
    async with connected(other) as elsewhere:
        stream = WireStream(elsewhere)
        await stream.open(f"{on.name}-draining")
        await leaving.__aexit__(None, None, None)
        return await stream.ended()


Provoke = Callable[[Scene], Awaitable[Fault]]
IN_BAND: dict[str, Provoke] = {
    "INVALID_INPUT": lambda on: on.refused(pb.StreamRequest(timestep=pb.Timestep(step=3))),
    "LAST_STEP_MISMATCH": lambda on: on.refused(pb.StreamRequest(close=pb.Close(step=5))),
    "STEP_GAP": lambda on: on.refused(_timestep(5)),
    "STEP_CONFLICT": lambda on: on.refused(_timestep(2, 99)),
    "STEP_TOO_OLD": _too_old,
    "NON_FINITE": _non_finite,
    "MODEL_FAILED": _model_failed,
    "ALREADY_OPEN": lambda on: on.refused(pb.StreamRequest(open=pb.Open(**on.claim))),
    "STORE_FULL": _full,
}
ENDING: dict[str, Provoke] = {
    "OPEN_EXPECTED": _open_expected,
    "SESSION_BUSY": _busy,
    "MODEL_NOT_HERE": _model_not_here,
    "STALE_OPEN": lambda on: on.reopened(found_epoch=on.opened.epoch - 1),
    "SUPERSEDED": _superseded,
    "SESSION_CLOSED": _closed,
    "INCARNATION_MISMATCH": _other_life,
    "LINEAGE_MISMATCH": lambda on: on.reopened(resume_point=on.point(2, b"h" * 16)),
    "MODEL_CHANGED": _model_changed,
    "CODEC_TOO_NEW": _codec_too_new,
    "SESSION_EXISTS": lambda on: on.reopened(mode=pb.OPEN_MODE_CREATE, create_token=b"t" * 16),
    "SESSION_UNKNOWN": lambda on: on.reopened(mode=pb.OPEN_MODE_RESUME, create_token=b"t" * 16),
    "SESSION_EXPIRED_OR_LOST": _expired,
    "MODEL_UNKNOWN": lambda on: on.reopened(model="nothing"),
    "STATE_REGRESSED": _regressed,
    "STATE_CORRUPT": _corrupt,
    "STORE_LOST": _lost,
    "STORE_UNAVAILABLE": _unavailable,
    "DRAINING": _draining,
    "UNSUPPORTED": _unsupported,
}
OWN_STORE = {"STORE_FULL", "STORE_UNAVAILABLE"}
LATER = {"OVERLOADED", "QUOTA", "STEP_DEADLINE", "SLOW_CONSUMER", "WINDOW_EXCEEDED"}
"""Of admission, limits, deadlines and windows: provoked in test_overload.py and test_many.py."""


def error_classes() -> dict[str, type[CellwireError]]:
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CellwireError)]
    return {each.reason: each for each in found if each is not CellwireError}


def is_complete(told: Fault, reason: str) -> None:
    """The status of the closed list, with the details that its kind must have, and a text that gives nothing away."""
    kind = error_classes()[reason]
    assert (told.reason, told.code) == (reason, kind.code)
    assert (told.retry_seconds is not None) == (told.code in DELAYED)
    assert bool(told.fields) == (reason == "INVALID_INPUT")
    assert (told.resource is not None) == (told.code is grpc.StatusCode.NOT_FOUND)
    assert told.resource != ""
    assert gives_nothing_away(told.message.encode())


def gives_nothing_away(raw: bytes) -> bool:
    words = (b"Traceback", b"File ", b".py", b"/tmp", b"service.", b"redis", b"onnx", b"Error:", TOKEN, b"Gather")
    return not any(word in raw for word in words)


async def test_every_error_is_provoked_or_not_in_this_release() -> None:
    assert set(error_classes()) == {*IN_BAND, *ENDING, *LATER, "INTERNAL"}
    assert not set(IN_BAND) & set(ENDING)


@pytest.mark.parametrize("reason", [reason for reason in IN_BAND if reason not in OWN_STORE])
async def test_a_refusal_in_band_has_its_details_and_changes_nothing(
    channel: grpc.aio.Channel, place: Place, redis: Redis, name: str, reason: str
) -> None:
    on = await scene(channel, place, redis, name)
    is_complete(await IN_BAND[reason](on), reason)
    await goes_on(on, 4 if reason == "STEP_TOO_OLD" else 3)


@pytest.mark.parametrize("reason", [reason for reason in ENDING if reason not in OWN_STORE])
async def test_an_error_at_open_or_at_the_end_of_a_stream_has_its_details(
    channel: grpc.aio.Channel, place: Place, redis: Redis, name: str, reason: str
) -> None:
    on = await scene(channel, place, redis, name)
    is_complete(await ENDING[reason](on), reason)


@pytest.mark.parametrize("reason", sorted(OWN_STORE))
async def test_an_error_of_a_store_in_trouble_has_its_details(own_place: Place, name: str, reason: str) -> None:
    async with (
        replica(own_place, store_timeout=0.2, commit_deadline=0.3) as server,
        connected(server) as channel,
        store_client(own_place.store_url) as redis,
    ):
        on = await scene(channel, own_place, redis, name)
        is_complete(await (IN_BAND | ENDING)[reason](on), reason)
        if reason in IN_BAND:
            await goes_on(on, 3)


async def goes_on(on: Scene, step: int) -> None:
    reply = await on.stream.replied(step, number(step * 7))
    assert not reply.replayed
    assert int(arrays(reply.outputs)["y"][0]) == checked([7 * at for at in range(1, step + 1)])[-1]
    await on.stream.close()


async def test_an_error_that_names_no_delay_has_one_all_the_same() -> None:
    for kind in error_classes().values():
        told = fault(encode_status(kind("why")))
        assert (told.retry_seconds is not None) == (kind.code in DELAYED)
        assert told.retry_seconds != 0


async def test_not_found_names_what_was_asked_for(channel: grpc.aio.Channel, name: str) -> None:
    sessions = session_service_pb2_grpc.SessionServiceStub(channel)
    for ask in (
        sessions.GetSession(session_pb.GetSessionRequest(session_id=name)),
        sessions.CloseSession(session_pb.CloseSessionRequest(session_id=name)),
        sessions.CloseSession(session_pb.CloseSessionRequest(session_id=name, create_token=TOKEN)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask
        assert fault_of(error.value).resource == name
    get = _method(channel, "/cellwire.v1.ModelService/GetModel", model_pb.GetModelResponse.FromString)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await get(model_pb.GetModelRequest(name="nothing", version="7").SerializeToString())
    assert fault_of(error.value).resource == "nothing/7"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (session_pb.ListSessionsRequest(page_size=1001), "page_size"),
        (session_pb.ListSessionsRequest(page_token="x"), "page_token"),
        (session_pb.ListSessionsRequest(page_token="-1"), "page_token"),
        (session_pb.ListSessionsRequest(page_token="٣"), "page_token"),
        (session_pb.ListSessionsRequest(page_token="9" * 20), "page_token"),
        (session_pb.ListSessionsRequest(page_token="9" * 5000), "page_token"),
        (session_pb.CloseSessionRequest(session_id="s", create_token=b"short"), "create_token"),
    ],
    ids=["page-size", "letters", "sign", "other-digits", "beyond-64-bits", "very-long", "token"],
)
async def test_a_field_of_the_session_service_that_cannot_be_is_named(
    channel: grpc.aio.Channel, request_: Any, field: str
) -> None:
    sessions = session_service_pb2_grpc.SessionServiceStub(channel)
    method = sessions.ListSessions if field.startswith("page") else sessions.CloseSession
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await method(request_)
    told = fault_of(error.value)
    assert (told.code, told.reason, told.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_INPUT",
        (field,),
    )


@pytest.mark.parametrize("method", ["ForkSession", "RewindSession", "ExportSession", "ImportSession"])
async def test_what_this_release_does_not_serve_says_so(channel: grpc.aio.Channel, method: str) -> None:
    ask = _method(channel, f"/cellwire.v1.SessionService/{method}", bytes)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ask(b"")
    is_complete(fault_of(error.value), "UNSUPPORTED")


# Bytes that are no message, to every method of every service, the library's own too


def _method(channel: grpc.aio.Channel, path: str, deserializer: Callable[[bytes], Any]) -> Any:
    return channel.unary_unary(path, request_serializer=bytes, response_deserializer=deserializer)


UNARY = [
    *(f"/cellwire.v1.SessionService/{name}" for name in ("GetSession", "ListSessions", "CloseSession")),
    *(f"/cellwire.v1.SessionService/{name}Session" for name in ("Fork", "Rewind", "Export", "Import")),
    *(f"/cellwire.v1.ModelService/{name}" for name in ("GetModel", "ListModels")),
    "/cellwire.v1.CellService/Step",
    "/grpc.health.v1.Health/Check",
]
STREAMING = [
    "/cellwire.v1.CellService/Stream",
    "/cellwire.v1.CellService/StreamMany",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]


@pytest.mark.parametrize("path", [*UNARY, *STREAMING])
@pytest.mark.parametrize("raw", [b"\xff" * 20, b"\x0a\x02\xff\xfe"], ids=["no-message", "not-utf-8"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(
    channel: grpc.aio.Channel, path: str, raw: bytes
) -> None:
    if raw == b"\x0a\x02\xff\xfe" and path.endswith(("ListModels", "ListSessions", "/Stream", "/Step")):
        raw = b"\x0a\x05\xff"  # their first field is no string: a length that is not there
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await _ask(channel, path, raw)
    told = fault_of(error.value)
    assert (told.code, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("message",))
    assert gives_nothing_away(_raw_details(error.value))


async def _ask(channel: grpc.aio.Channel, path: str, raw: bytes) -> None:
    if path in UNARY:
        await _method(channel, path, bytes)(raw)
        return
    kind = channel.unary_stream if path.endswith("Watch") else channel.stream_stream
    streaming = kind(path, request_serializer=bytes, response_deserializer=bytes)
    async for _ in streaming(raw) if path.endswith("Watch") else streaming(_once(raw)):
        pass


async def _once(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


def _raw_details(error: grpc.aio.AioRpcError) -> bytes:
    parts = [str(error.details()).encode()]
    parts += [value if isinstance(value, bytes) else value.encode() for _, value in error.trailing_metadata() or ()]
    return b"\n".join(parts)


async def test_every_method_is_in_the_lists_above(channel: grpc.aio.Channel) -> None:
    reflect = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=bytes,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = [each async for each in reflect(_once(ask.SerializeToString()))]
    listed = {each.name for each in answer.list_services_response.service}
    assert listed == {path.split("/")[1] for path in (*UNARY, *STREAMING)} >= set(SERVICES)


async def test_the_health_of_an_unknown_name_is_not_found(channel: grpc.aio.Channel) -> None:
    ask = _method(channel, "/grpc.health.v1.Health/Check", bytes)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ask(health_pb2.HealthCheckRequest(service="nothing").SerializeToString())
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    for path in ("/cellwire.v1.CellService/Nothing", "/nothing.Service/Nothing"):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await _method(channel, path, bytes)(b"")
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


# The unforeseen


class FailingCell(Cell):
    """A real cell whose next runs raise what nobody foresaw: no graph and no input of ours does that."""

    failing = True

    def run(self, work: Sequence[CellWork]) -> list[CellResult | CellwireError]:
        if self.failing:
            raise RuntimeError(f"secret of /etc/cellwire: {TOKEN!r}")
        return super().run(work)


async def test_the_unforeseen_is_told_as_an_id_that_the_log_has(
    channel: grpc.aio.Channel, server: Server, models: Path, name: str
) -> None:
    cell = FailingCell(*Repository([models]).open("checker", "2"))
    cell.failing = False
    cell.warm()
    cell.failing = True
    async with LoadedCell(cell, 0.05, Rate(0)) as loaded:
        sound = server.cells._loaded["checker", "2"]
        server.cells._loaded["checker", "2"] = loaded
        try:
            open_ = pb.Open(session_id=name, model="checker", version="2", create_token=TOKEN)
            stream = WireStream(channel)
            await stream.open(name, create_token=TOKEN, version="2")
            with capture_logs() as lines, pytest.raises(grpc.aio.AioRpcError) as streamed:
                await stream.step(1, number(7))
            with pytest.raises(grpc.aio.AioRpcError) as unary:
                await call(
                    channel, pb.Open(session_id=f"{name}-call", model="checker", version="2"), good("checker", 1)
                )
            for error in (streamed, unary):
                told = fault_of(error.value)
                assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
                assert re.fullmatch("internal error [0-9a-f]{8}", told.message)
                assert gives_nothing_away(_raw_details(error.value))
                assert b"secret" not in _raw_details(error.value)
            (line,) = [each for each in lines if each["event"] == "rpc.internal_error"]
            assert fault_of(streamed.value).message.endswith(line["error_id"])
            cell.failing = False
            response = await call(channel, open_, good("checker", 1))
            assert int(arrays(response.reply.outputs)["y"][0]) == checked([7])[0]
        finally:
            server.cells._loaded["checker", "2"] = sound


@pytest.mark.parametrize("style", ["console", "json"])
async def test_the_log_of_the_unforeseen_holds_no_local_variables(
    capsys: pytest.CaptureFixture[str], style: str
) -> None:
    before = structlog.get_config()
    create_token = os.urandom(16).hex()
    try:
        logs.configure(style, "INFO")
        try:
            raise ValueError(len(create_token))
        except ValueError as error:
            structlog.get_logger().error("rpc.internal_error", error_id="00", exc_info=error)
    finally:
        structlog.configure(**before)
    text = capsys.readouterr().err
    assert "ValueError: 32" in text
    assert create_token not in text


# E. Stored state, damaged


def _resealed(
    blob: bytes, version: int | None = None, digest: bytes | None = None, state: bytes | None = None
) -> bytes:
    """A state blob with something changed and its CRC made right again."""
    body = bytearray(blob[:-4])
    if version is not None:
        body[2] = version
    if digest is not None:
        body[4:20] = digest
    if state is not None:
        body[20:] = state
    return bytes(body) + crc32(body).to_bytes(4, "little")


async def _stored(on: Scene, field: str) -> bytes:
    value = await on.redis.hget(on.key, field)
    assert isinstance(value, bytes)
    return value


def _flip(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


DAMAGE: list[Any] = [
    pytest.param("s", lambda blob: blob[:-1], "STATE_CORRUPT", id="114-one-byte-short"),
    pytest.param("s", lambda blob: blob[:10], "STATE_CORRUPT", id="114-only-a-head"),
    pytest.param("s", lambda blob: b"", "STATE_CORRUPT", id="114-empty"),
    pytest.param("s", lambda blob: blob + b"\0", "STATE_CORRUPT", id="114-one-byte-long"),
    pytest.param("s", lambda blob: _flip(blob, 22), "STATE_CORRUPT", id="114-a-bit-of-the-state"),
    pytest.param("s", lambda blob: _flip(blob, -1 % len(blob)), "STATE_CORRUPT", id="114-a-bit-of-the-crc"),
    pytest.param("s", lambda blob: b"XX" + blob[2:], "STATE_CORRUPT", id="114-bad-magic"),
    pytest.param("s", lambda blob: b"\x80\x04K\x01." * 9, "STATE_CORRUPT", id="114-a-pickle"),
    pytest.param("s", lambda blob: _resealed(blob, version=2), "CODEC_TOO_NEW", id="115-newer-codec"),
    pytest.param("s", lambda blob: _resealed(blob, version=255), "CODEC_TOO_NEW", id="115-the-newest-codec"),
    pytest.param("s", lambda blob: _resealed(blob, digest=b"d" * 16), "STATE_CORRUPT", id="116-another-model"),
    pytest.param("s", lambda blob: _resealed(blob, state=bytes(16)), "STATE_CORRUPT", id="116-another-shape"),
    pytest.param("s", lambda blob: _resealed(blob, state=b""), "STATE_CORRUPT", id="116-no-state"),
    pytest.param("n", lambda _: b"x", "STATE_CORRUPT", id="114-a-step-that-is-no-number"),
    pytest.param("n", lambda _: b"1" * 40, "STATE_CORRUPT", id="114-a-step-beyond-all"),
    pytest.param("n", lambda _: b"-1", "STATE_CORRUPT", id="114-a-negative-step"),
    pytest.param("h", lambda _: b"short", "STATE_CORRUPT", id="114-a-short-digest"),
    pytest.param("i", lambda _: b"", "STATE_CORRUPT", id="114-no-incarnation"),
    pytest.param("c", lambda _: b"x", "STATE_CORRUPT", id="114-a-count-that-is-no-number"),
    pytest.param("l", lambda _: b"x", "STATE_CORRUPT", id="114-a-lease-that-is-no-number"),
    pytest.param("m", lambda _: b"", "STATE_CORRUPT", id="114-no-model"),
    pytest.param("m", lambda _: b"\xff/\xff/\xff", "STATE_CORRUPT", id="114-a-model-that-is-not-utf-8"),
    pytest.param("x", lambda _: b"[]", "STATE_CORRUPT", id="114-options-of-another-kind"),
    pytest.param("x", lambda _: b"\xff{}", "STATE_CORRUPT", id="114-options-that-are-no-json"),
    pytest.param("x", lambda _: b"[" * 100_000, "STATE_CORRUPT", id="114-options-nested-too-deep"),
    pytest.param("x", lambda blob: blob + b"more", "STATE_CORRUPT", id="114-constants-of-another-model"),
]


@pytest.mark.parametrize(("field", "damage", "reason"), DAMAGE)
async def test_a_damaged_session_is_told_and_left_as_it_is(
    channel: grpc.aio.Channel,
    place: Place,
    redis: Redis,
    name: str,
    field: str,
    damage: Callable[[bytes], bytes],
    reason: str,
) -> None:
    on = await scene(channel, place, redis, name)
    await on.stream.close()
    await until_released(on)
    damaged = damage(await _stored(on, field))
    await redis.hset(on.key, field, damaged)
    neighbour = WireStream(channel)
    claim = {**on.claim, "model": "", "create_token": b"" if field == "i" else TOKEN, "mode": pb.OPEN_MODE_RESUME}
    told, opened = await asyncio.gather(open_fault(channel, **claim), neighbour.open(f"{name}-neighbour"))
    is_complete(told, reason)
    assert opened.created
    assert await _stored(on, field) == damaged
    await neighbour.close()


async def until_released(on: Scene) -> None:
    async def released() -> bool:
        return await _stored(on, "l") == b"0"

    await until(released)


async def seen_epoch(on: Scene) -> int:
    return int(await _stored(on, "e"))


async def test_114_a_damaged_session_that_is_mended_goes_on(
    channel: grpc.aio.Channel, place: Place, redis: Redis, name: str
) -> None:
    on = await scene(channel, place, redis, name)
    await on.stream.close()
    blob = await _stored(on, "s")
    await redis.hset(on.key, "s", blob[:-1])
    is_complete(await on.reopened(), "STATE_CORRUPT")
    await redis.hset(on.key, "s", blob)
    newer = WireStream(channel)
    assert (await newer.open(**{**on.claim, "found_epoch": await seen_epoch(on)})).h == on.h
    reply = await newer.replied(3, number(21))
    assert int(arrays(reply.outputs)["y"][0]) == checked([7, 14, 21])[-1]
    await newer.close()


@pytest.mark.parametrize("kind", ["string", "list", "set"])
async def test_117_a_key_of_another_type_is_told_by_every_method_and_left_as_it_is(
    channel: grpc.aio.Channel, place: Place, redis: Redis, name: str, kind: str
) -> None:
    key = session_key(place.tenant, name)
    command = {"string": "SET", "list": "RPUSH", "set": "SADD"}[kind]
    await redis.execute_command(command, key, b"not a session")  # type: ignore[no-untyped-call]
    sessions = session_service_pb2_grpc.SessionServiceStub(channel)
    neighbour = WireStream(channel)
    told, opened = await asyncio.gather(
        open_fault(channel, session_id=name, model="checker"), neighbour.open(f"{name}-neighbour")
    )
    is_complete(told, "STATE_CORRUPT")
    assert opened.created
    for ask in (
        call(channel, pb.Open(session_id=name, model="checker"), good("checker", 1)),
        sessions.GetSession(session_pb.GetSessionRequest(session_id=name)),
        sessions.CloseSession(session_pb.CloseSessionRequest(session_id=name)),
        sessions.CloseSession(session_pb.CloseSessionRequest(session_id=name, create_token=TOKEN)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask
        is_complete(fault_of(error.value), "STATE_CORRUPT")
    assert await redis.type(key) == kind.encode()
    await neighbour.close()


async def test_117_a_key_that_changes_its_type_under_a_stream_ends_only_that_stream(
    channel: grpc.aio.Channel, place: Place, redis: Redis, name: str
) -> None:
    on = await scene(channel, place, redis, name)
    neighbour = await scene(channel, place, redis, f"{name}-neighbour")
    await redis.delete(on.key)
    await redis.set(on.key, b"not a session")
    await on.stream.send(_timestep(3))
    reply = await neighbour.stream.replied(3, number(21))
    assert int(arrays(reply.outputs)["y"][0]) == checked([7, 14, 21])[-1]
    is_complete(await on.stream.ended(), "STATE_CORRUPT")
    await neighbour.stream.close()


async def test_a_session_that_cannot_be_read_does_not_hide_the_others_from_a_list(
    channel: grpc.aio.Channel, place: Place, redis: Redis, name: str
) -> None:
    on = await scene(channel, place, redis, name)
    await redis.set(session_key(place.tenant, f"{name}-string"), b"x")
    prefix = on.key[: -len(name) - 1]
    await redis.hset(prefix + b"\xff\xfe}", "i", "x")
    await redis.hset(prefix + name.encode() + b"-open", "i", "x")
    for field, value in (("u", b"9" * 15), ("m", b"a/b/c/d")):
        await redis.hset(on.key, field, value)
    sessions = session_service_pb2_grpc.SessionServiceStub(channel)
    found, page = [], ""
    while True:
        answer = await sessions.ListSessions(session_pb.ListSessionsRequest(page_token=page))
        found += [each.session_id for each in answer.sessions]
        page = answer.next_page_token
        if not page:
            break
    assert name in found
    assert f"{name}-string" not in found
    await on.stream.close()


RECORD_DAMAGE: list[Any] = [
    pytest.param(lambda body: body[:20], id="118-cut-in-its-head"),
    pytest.param(lambda body: body[:-1], id="118-one-byte-short"),
    pytest.param(lambda body: b"", id="118-empty"),
    pytest.param(lambda body: _flip(body, 60), id="118-a-bit-of-the-reply"),
    pytest.param(lambda body: _flip(body, 0), id="118-a-bit-of-the-span"),
    pytest.param(lambda body: b"\xff" * 200, id="118-all-ones"),
]


@pytest.mark.parametrize("damage", RECORD_DAMAGE)
async def test_a_damaged_reply_is_lost_but_the_state_is_not(
    channel: grpc.aio.Channel, place: Place, redis: Redis, name: str, damage: Callable[[bytes], bytes]
) -> None:
    on = await scene(channel, place, redis, name)
    await redis.hset(on.key, "r1", damage(await _stored(on, "r1")))
    newer = RawStream(channel)
    opened = await newer.open(**on.claim, resume_point=on.point(2, on.h))
    assert (opened.step, opened.h) == (2, on.h)
    await newer.send(_timestep(2))
    response = await newer.read()
    told = fault(response.refused.status)
    is_complete(told, "STEP_TOO_OLD")
    assert told.position is not None
    assert told.position.step == 2
    await newer.send(_timestep(1))
    assert (await newer.read()).reply.replayed
    third = await newer.replied(3, number(21))
    assert int(arrays(third.outputs)["y"][0]) == checked([7, 14, 21])[-1]
    closed = await newer.ask(pb.StreamRequest(close=pb.Close(step=3)))
    assert closed.closed.step == 3
    await newer.close()


async def test_118_a_session_with_a_damaged_reply_is_closed_all_the_same(
    channel: grpc.aio.Channel, place: Place, redis: Redis, name: str
) -> None:
    on = await scene(channel, place, redis, name)
    await redis.hset(on.key, "r1", b"cut")
    closed = await on.stream.ask(pb.StreamRequest(close=pb.Close(step=2)))
    assert closed.closed.step == 2
    await on.stream.close()
    assert (await seen(channel, name)).closed
