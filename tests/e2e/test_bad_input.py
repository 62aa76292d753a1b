"""Bad input: cases of the protocol (51 to 90) and of tensors (91 to 113), by number.

Each is refused with its reason, its field is named, it is counted, nothing has changed (the next good timestep gets the
uninterrupted answer), and the stream goes on where it lives.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from cellwire.cli.embedded import EmbeddedStore
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import model_service_pb2 as model_pb
from cellwire.v1 import (
    model_service_pb2_grpc,
    resume_pb2,
    session_service_pb2_grpc,
    tensor_pb2,
)
from cellwire.v1 import session_service_pb2 as session_pb
from models.cells import checked
from service import metrics
from service.server import Server
from service.values import incarnation_of
from tests.harness import Fault, Place, WireStream, arrays, fault, fault_of, number, open_fault, replica, tensor
from tests.hostile import (
    RawStream,
    call,
    counted,
    good,
    seen,
    undisturbed,
    until,
    write_models,
    writes_held,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
RING, WINDOW = 4, 3


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
    async with replica(place, ring=RING, window=WINDOW) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with connected(server) as channel:
        yield channel


@pytest.fixture
def name() -> str:
    """A session id of the test's own."""
    return uuid.uuid4().hex


def connected(server: Server) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")


class Witness:
    """A session at step 1 on a stream, which must stand there still when the bad input was refused."""

    def __init__(self, channel: grpc.aio.Channel, name: str, model: str = "checker") -> None:
        self.channel, self.name, self.model = channel, name, model
        self.token = os.urandom(16)
        self.stream = RawStream(channel)

    async def begin(self, **fields: object) -> "Witness":
        self.answers = await undisturbed(self.channel, self.model, 3)
        self.opened = await self.stream.open(self.name, self.model, create_token=self.token, **fields)
        await self.advances(1)
        self.before = await seen(self.channel, self.name)
        return self

    async def advances(self, step: int) -> pb.Reply:
        response = await self.stream.ask(pb.StreamRequest(timestep=good(self.model, step)))
        assert response.WhichOneof("kind") == "reply", response
        assert not response.reply.replayed
        assert response.reply.outputs.SerializeToString() == self.answers[step - 1]
        return response.reply

    async def unharmed(self) -> None:
        """The store holds it as before, and the same stream goes on with the uninterrupted answers."""
        now = await seen(self.channel, self.name)
        assert (now.step, now.h, now.epoch) == (1, self.before.h, self.before.epoch)
        for step in (2, 3):
            await self.advances(step)
        await self.stream.close()


async def witness(channel: grpc.aio.Channel, name: str, model: str = "checker", **fields: object) -> Witness:
    return await Witness(channel, name, model).begin(**fields)


def told(fault: Fault, code: grpc.StatusCode, reason: str, *fields: str) -> None:
    """The fault is what was expected, and names the fields in its details and its text."""
    assert (fault.code, fault.reason, fault.fields) == (code, reason, fields), fault
    assert all(field in fault.message for field in fields)


async def refused(stream: RawStream, request: pb.StreamRequest | bytes) -> Fault:
    """In band."""
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    await stream.send_bytes(raw)
    response = await stream.read()
    assert response.WhichOneof("kind") == "refused", response
    return fault(response.refused.status)


async def call_fault(channel: grpc.aio.Channel, open_: pb.Open, timestep: pb.Timestep) -> Fault:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(channel, open_, timestep)
    return fault_of(error.value)


# C. Session protocol


SESSION_IDS = [
    pytest.param("", id="51-empty"),
    pytest.param("a" * 129, id="52-129-characters"),
    pytest.param("a{b}", id="53-hash-tag"),
    pytest.param("}/{other/s", id="53-another-tenant"),
    pytest.param("a\r\nb", id="54-newline"),
    pytest.param("a\n", id="54-last-newline"),
    pytest.param("a\0b", id="54-nul"),
    pytest.param("sé", id="55-accent"),
    pytest.param("\u202eabc", id="55-right-to-left"),
    pytest.param("\u0430bc", id="55-homoglyph"),
    pytest.param("٣", id="55-digit-of-another-script"),
]


@pytest.mark.parametrize("session_id", SESSION_IDS)
async def test_a_session_id_outside_the_alphabet_is_refused_everywhere(
    channel: grpc.aio.Channel, session_id: str
) -> None:
    sessions = session_service_pb2_grpc.SessionServiceStub(channel)
    before = {s.session_id for s in (await sessions.ListSessions(session_pb.ListSessionsRequest())).sessions}
    with counted("INVALID_INPUT"):
        told(await open_fault(channel, session_id=session_id, model="checker"), INVALID, "INVALID_INPUT", "session_id")
    one = await call_fault(channel, pb.Open(session_id=session_id, model="checker"), good("checker", 1))
    told(one, INVALID, "INVALID_INPUT", "session_id")
    for method, request in (
        (sessions.GetSession, session_pb.GetSessionRequest(session_id=session_id)),
        (sessions.CloseSession, session_pb.CloseSessionRequest(session_id=session_id)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await method(request)
        told(fault_of(error.value), INVALID, "INVALID_INPUT", "session_id")
    after = {s.session_id for s in (await sessions.ListSessions(session_pb.ListSessionsRequest())).sessions}
    assert after == before


@pytest.mark.parametrize("session_id", ["a" * 128, "A-Za-z0-9._:-", "-", "..", "0"])
async def test_a_session_id_of_the_alphabet_is_taken(channel: grpc.aio.Channel, session_id: str) -> None:
    stream = WireStream(channel)
    await stream.open(session_id)
    assert (await seen(channel, session_id)).session_id == session_id
    await stream.ask(pb.StreamRequest(close=pb.Close(step=0)))
    await stream.close()


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(pb.StreamRequest(timestep=pb.Timestep(step=1)), id="56-timestep"),
        pytest.param(pb.StreamRequest(close=pb.Close(step=1)), id="56-close"),
    ],
)
async def test_a_stream_that_does_not_begin_with_open_ends(channel: grpc.aio.Channel, first: pb.StreamRequest) -> None:
    stream = WireStream(channel)
    with counted("OPEN_EXPECTED"):
        await stream.send(first)
        told(await stream.ended(), PRECONDITION, "OPEN_EXPECTED")


async def test_57_a_second_open_is_refused_in_band(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    for session_id in (name, "another"):
        again = pb.StreamRequest(open=pb.Open(session_id=session_id, model="checker", create_token=held.token))
        with counted("ALREADY_OPEN"):
            told(await refused(held.stream, again), PRECONDITION, "ALREADY_OPEN")
    await held.unharmed()


async def test_58_an_empty_message_is_refused(channel: grpc.aio.Channel, name: str) -> None:
    stream = WireStream(channel)
    await stream.send(pb.StreamRequest())
    told(await stream.ended(), INVALID, "INVALID_INPUT", "kind")
    held = await witness(channel, name)
    with counted("INVALID_INPUT"):
        told(await refused(held.stream, pb.StreamRequest()), INVALID, "INVALID_INPUT", "kind")
    await held.unharmed()


@pytest.mark.parametrize("missing", ["open", "timestep"])
async def test_58_a_call_without_one_of_its_parts_is_refused(
    channel: grpc.aio.Channel, name: str, missing: str
) -> None:
    held = await witness(channel, name)
    open_ = None if missing == "open" else pb.Open(session_id=name, create_token=held.token, mode=pb.OPEN_MODE_RESUME)
    timestep = None if missing == "timestep" else good("checker", 2)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await pb_call(channel, pb.StepRequest(open=open_, timestep=timestep))
    told(fault_of(error.value), INVALID, "INVALID_INPUT", missing)
    await held.unharmed()


async def pb_call(channel: grpc.aio.Channel, request: pb.StepRequest | bytes) -> pb.StepResponse:
    method = channel.unary_unary(
        "/cellwire.v1.CellService/Step",
        request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
        response_deserializer=pb.StepResponse.FromString,
    )
    response: pb.StepResponse = await method(request)
    return response


async def test_59_a_step_of_an_unknown_session_is_not_found(channel: grpc.aio.Channel, name: str) -> None:
    open_ = pb.Open(session_id=name, model="checker", mode=pb.OPEN_MODE_RESUME)
    with counted("SESSION_UNKNOWN"):
        found = await call_fault(channel, open_, good("checker", 1))
    told(found, NOT_FOUND, "SESSION_UNKNOWN")
    assert found.resource == name
    created = await call(channel, pb.Open(session_id=name, model="checker"), good("checker", 1))
    assert created.opened.created


async def test_60_create_on_an_existing_session_is_refused(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    for token in (os.urandom(16), b""):
        create = {"session_id": name, "model": "checker", "mode": pb.OPEN_MODE_CREATE, "create_token": token}
        with counted("SESSION_EXISTS"):
            told(await open_fault(channel, **create), grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")
    await held.unharmed()


@pytest.mark.parametrize("token", [b"", b"t" * 16], ids=["by-id", "by-token"])
async def test_61_resume_of_what_was_never_created_is_not_found(
    channel: grpc.aio.Channel, name: str, token: bytes
) -> None:
    with counted("SESSION_UNKNOWN"):
        found = await open_fault(
            channel, session_id=name, model="checker", mode=pb.OPEN_MODE_RESUME, create_token=token
        )
    told(found, NOT_FOUND, "SESSION_UNKNOWN")
    assert found.resource == name


async def test_62_resume_after_idle_expiry_is_not_found(place: Place, name: str) -> None:
    short = {"idle_ttl": 0.3, "tombstone": 0.2, "lease": 0.2, "heartbeat": 0.1}
    async with replica(place, **short) as server, connected(server) as channel:
        held = await witness(channel, name)
        reply = await held.advances(2)
        await held.stream.close()

        async def expired() -> bool:
            try:
                await seen(channel, name)
            except grpc.aio.AioRpcError as error:
                return bool(error.code() is NOT_FOUND)
            return False

        await until(expired)
        point = resume_pb2.ResumePoint(
            received=resume_pb2.Checkpoint(step=2, h=reply.h), durable_step=2, store_id=held.opened.store_id
        )
        for mode in (pb.OPEN_MODE_RESUME, pb.OPEN_MODE_CREATE_OR_RESUME):
            with counted("SESSION_EXPIRED_OR_LOST"):
                found = await open_fault(
                    channel, session_id=name, model="checker", mode=mode, create_token=held.token, resume_point=point
                )
            told(found, NOT_FOUND, "SESSION_EXPIRED_OR_LOST")
            assert found.resource == name


async def test_63_resume_of_a_closed_session_is_refused(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    await held.stream.ask(pb.StreamRequest(close=pb.Close(step=1)))
    for fields in (
        {"mode": pb.OPEN_MODE_RESUME, "create_token": held.token},
        {"mode": pb.OPEN_MODE_CREATE_OR_RESUME, "create_token": held.token},
        {"mode": pb.OPEN_MODE_RESUME},
    ):
        with counted("SESSION_CLOSED"):
            closed = await open_fault(channel, session_id=name, model="checker", **fields)
        told(closed, PRECONDITION, "SESSION_CLOSED")
        assert closed.position is not None
        assert closed.position.step == 1
    assert (await seen(channel, name)).closed


async def test_64_another_incarnation_named_without_a_token_is_refused(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    point = resume_pb2.ResumePoint(
        received=resume_pb2.Checkpoint(step=1, h=held.before.h), incarnation=incarnation_of(b"another")
    )
    with counted("INCARNATION_MISMATCH"):
        fault = await open_fault(
            channel, session_id=name, model="checker", mode=pb.OPEN_MODE_RESUME, resume_point=point
        )
    told(fault, PRECONDITION, "INCARNATION_MISMATCH")
    await held.unharmed()


async def test_65_a_session_leased_elsewhere_is_busy_for_who_has_no_token(
    channel: grpc.aio.Channel, place: Place, name: str
) -> None:
    held = await witness(channel, name)
    async with replica(place) as second, connected(second) as elsewhere:
        with counted("SESSION_BUSY"):
            busy = await open_fault(
                elsewhere, session_id=name, model="checker", mode=pb.OPEN_MODE_RESUME, found_epoch=held.before.epoch
            )
        told(busy, grpc.StatusCode.UNAVAILABLE, "SESSION_BUSY")
        assert busy.retry_seconds is not None
        assert 0 < busy.retry_seconds <= 15
        await held.unharmed()


@pytest.mark.parametrize("model", ["nothing", "../checker", "checker/1", "a" * 300, "", "\u0441hecker"])
async def test_66_an_unknown_model_is_refused(channel: grpc.aio.Channel, name: str, model: str) -> None:
    fault = await open_fault(channel, session_id=name, model=model)
    if model:
        told(fault, NOT_FOUND, "MODEL_UNKNOWN")
        assert fault.resource == model[:128]
    else:
        told(fault, INVALID, "INVALID_INPUT", "model")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await seen(channel, name)
    assert error.value.code() is NOT_FOUND


@pytest.mark.parametrize("version", ["3", "01", "a" * 128])
async def test_66_an_unknown_version_is_refused(channel: grpc.aio.Channel, name: str, version: str) -> None:
    fault = await open_fault(channel, session_id=name, model="checker", version=version)
    told(fault, NOT_FOUND, "MODEL_UNKNOWN")
    assert fault.resource is not None
    assert version in fault.resource


async def test_66_a_version_that_cannot_be_one_is_refused(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    for version in ("a" * 300, "1/2", "1\n"):
        fault = await open_fault(
            channel, session_id=name, version=version, mode=pb.OPEN_MODE_RESUME, create_token=held.token
        )
        told(fault, INVALID, "INVALID_INPUT", "version")
    await held.unharmed()


@pytest.mark.parametrize("asked", [{"model": "checker", "version": "2"}, {"version": "2"}, {"model": "smooth"}])
async def test_67_another_model_or_version_on_resume_is_refused(
    channel: grpc.aio.Channel, name: str, asked: dict[str, str]
) -> None:
    held = await witness(channel, name, version="1")
    with counted("MODEL_CHANGED"):
        fault = await open_fault(
            channel, session_id=name, mode=pb.OPEN_MODE_RESUME, create_token=held.token, found_epoch=held.opened.epoch,
            **asked,
        )  # fmt: skip
    told(fault, PRECONDITION, "MODEL_CHANGED")
    assert "checker" in fault.message
    assert "version 1" in fault.message
    await held.unharmed()


@pytest.mark.parametrize(
    ("timestep", "field"),
    [
        pytest.param(pb.Timestep(step=0), "step", id="68-zero"),
        pytest.param(pb.Timestep(step=2**53), "step", id="69-beyond-2-to-the-53"),
        pytest.param(pb.Timestep(step=2**64 - 1), "step", id="69-the-largest"),
        pytest.param(pb.Timestep(step=2**53 - 1, timesteps=2), "timesteps", id="69-the-last-of-several"),
        pytest.param(pb.Timestep(step=2, timesteps=65), "timesteps", id="69-too-many-timesteps"),
        pytest.param(pb.Timestep(step=2, timesteps=2**32 - 1), "timesteps", id="69-far-too-many-timesteps"),
    ],
)
async def test_a_step_number_that_cannot_be_one_is_refused(
    channel: grpc.aio.Channel, name: str, timestep: pb.Timestep, field: str
) -> None:
    held = await witness(channel, name)
    timestep.inputs.append(tensor(number(14)))
    with counted("INVALID_INPUT"):
        told(await refused(held.stream, pb.StreamRequest(timestep=timestep)), INVALID, "INVALID_INPUT", field)
    await held.unharmed()


async def test_68_a_number_in_an_unnumbered_session_is_refused(channel: grpc.aio.Channel, name: str) -> None:
    stream = RawStream(channel)
    await stream.open(name, unnumbered=True)
    told(await refused(stream, pb.StreamRequest(timestep=good("checker", 1))), INVALID, "INVALID_INPUT", "step")
    assert int(arrays((await stream.replied(0, number(7))).outputs)["y"][0]) == checked([7])[0]
    await stream.close()


@pytest.mark.parametrize("step", [3, 4, 1000, 2**53 - 1])
async def test_70_a_gap_is_refused_with_the_expected_step(channel: grpc.aio.Channel, name: str, step: int) -> None:
    held = await witness(channel, name)
    timestep = good("checker", 2)
    timestep.step = step
    with counted("STEP_GAP"):
        gap = await refused(held.stream, pb.StreamRequest(timestep=timestep))
    told(gap, PRECONDITION, "STEP_GAP")
    assert gap.position is not None
    assert (gap.position.step, gap.position.h, "2" in gap.message) == (1, held.before.h, True)
    await held.unharmed()


async def test_71_a_duplicate_is_answered_again_and_advances_nothing(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    response = await held.stream.ask(pb.StreamRequest(timestep=good("checker", 1)))
    assert response.reply.replayed
    assert response.reply.outputs.SerializeToString() == held.answers[0]
    assert response.reply.h == held.before.h
    await held.unharmed()


def _other_number() -> pb.Timestep:
    return pb.Timestep(step=1, inputs=[tensor(number(8), "x")])


def _other_span() -> pb.Timestep:
    return pb.Timestep(step=1, timesteps=2, inputs=[tensor(np.array([[7], [14]]), "x")])


def _with_a_leading_axis() -> pb.Timestep:
    return pb.Timestep(step=1, timesteps=1, inputs=[tensor(np.array([[7]]), "x")])


@pytest.mark.parametrize("again", [_other_number, _other_span, _with_a_leading_axis])
async def test_72_a_duplicate_with_other_bytes_is_a_conflict(
    channel: grpc.aio.Channel, name: str, again: Callable[[], pb.Timestep]
) -> None:
    held = await witness(channel, name)
    with counted("STEP_CONFLICT"):
        conflict = await refused(held.stream, pb.StreamRequest(timestep=again()))
    told(conflict, PRECONDITION, "STEP_CONFLICT")
    assert conflict.position is not None
    assert conflict.position.step == 1
    await held.unharmed()


async def test_73_a_duplicate_older_than_the_ring_is_too_old(channel: grpc.aio.Channel, name: str) -> None:
    stream = RawStream(channel)
    await stream.open(name)
    for step in range(1, RING + 2):
        await stream.replied(step, number(step * 7))
    with counted("STEP_TOO_OLD"):
        old = await refused(stream, pb.StreamRequest(timestep=good("checker", 1)))
    told(old, grpc.StatusCode.OUT_OF_RANGE, "STEP_TOO_OLD")
    assert old.position is not None
    assert old.position.step == RING + 1
    assert (await stream.replied(2, number(14))).replayed
    last = await stream.replied(RING + 2, number(7 * RING + 14))
    assert int(arrays(last.outputs)["y"][0]) == checked([7 * step for step in range(1, RING + 3)])[-1]
    await stream.close()


@pytest.mark.parametrize("where", ["here", "on another replica"])
async def test_74_the_older_stream_is_superseded(
    channel: grpc.aio.Channel, place: Place, name: str, where: str
) -> None:
    held = await witness(channel, name)
    async with replica(place, ring=RING, window=WINDOW) as second, connected(second) as elsewhere:
        newer = WireStream(channel if where == "here" else elsewhere)
        with counted("SUPERSEDED"):
            opened = await newer.open(name, create_token=held.token, found_epoch=held.before.epoch)
            assert (opened.step, opened.h) == (1, held.before.h)
            if where != "here":
                await held.stream.send(pb.StreamRequest(timestep=good("checker", 2)))
            told(await held.stream.ended(), grpc.StatusCode.ABORTED, "SUPERSEDED")
        reply = await newer.replied(2, number(14))
        assert not reply.replayed
        assert reply.outputs.SerializeToString() == held.answers[1]
        await newer.close()


async def test_75_a_step_after_close_ends_the_stream(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    closed = await held.stream.ask(pb.StreamRequest(close=pb.Close(step=1)))
    assert closed.closed.step == 1
    with counted("SESSION_CLOSED"):
        await held.stream.send(pb.StreamRequest(timestep=good("checker", 2)))
        told(await held.stream.ended(), PRECONDITION, "SESSION_CLOSED")
    now = await seen(channel, name)
    assert (now.step, now.h, now.closed) == (1, held.before.h, True)


async def test_76_close_twice_is_fine(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    for _ in range(2):
        response = await held.stream.ask(pb.StreamRequest(close=pb.Close(step=1)))
        assert response.closed.step == 1
    await held.stream.close()
    sessions = session_service_pb2_grpc.SessionServiceStub(channel)
    for token in (held.token, b""):
        again = await sessions.CloseSession(session_pb.CloseSessionRequest(session_id=name, create_token=token))
        assert again.step == 1


@pytest.mark.parametrize("step", [0, 2, 2**53, 2**64 - 1])
async def test_77_close_with_a_wrong_last_step_is_refused(channel: grpc.aio.Channel, name: str, step: int) -> None:
    held = await witness(channel, name)
    with counted("LAST_STEP_MISMATCH"):
        mismatch = await refused(held.stream, pb.StreamRequest(close=pb.Close(step=step)))
    told(mismatch, PRECONDITION, "LAST_STEP_MISMATCH")
    assert mismatch.position is not None
    assert (mismatch.position.step, mismatch.position.h) == (1, held.before.h)
    await held.unharmed()


async def test_77_a_call_to_close_with_a_wrong_last_step_is_refused(channel: grpc.aio.Channel, name: str) -> None:
    open_ = pb.Open(session_id=name, model="checker", create_token=b"t" * 16)
    await call(channel, open_, good("checker", 1))
    sessions = session_service_pb2_grpc.SessionServiceStub(channel)
    request = session_pb.CloseSessionRequest(session_id=name, create_token=b"t" * 16, step=2)
    with counted("LAST_STEP_MISMATCH"), pytest.raises(grpc.aio.AioRpcError) as error:
        await sessions.CloseSession(request)
    told(fault_of(error.value), PRECONDITION, "LAST_STEP_MISMATCH")
    response = await call(channel, open_, good("checker", 2))
    assert int(arrays(response.reply.outputs)["y"][0]) == checked([7, 14])[1]


def _point(held: Witness, step: int, h: bytes, durable_step: int) -> dict[str, Any]:
    received = resume_pb2.Checkpoint(step=step, h=h)
    return {
        "session_id": held.name,
        "model": held.model,
        "create_token": held.token,
        "found_epoch": held.opened.epoch,
        "resume_point": resume_pb2.ResumePoint(
            received=received, durable_step=durable_step, store_id=held.opened.store_id
        ),
    }


async def test_78_a_watermark_ahead_of_the_store_is_a_regression(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    with counted("STATE_REGRESSED"):
        regressed = await open_fault(channel, **_point(held, 5, b"h" * 16, 5))
    told(regressed, grpc.StatusCode.DATA_LOSS, "STATE_REGRESSED")
    assert regressed.position is not None
    assert (regressed.position.step, regressed.position.h) == (1, held.before.h)
    await held.unharmed()


async def test_78_only_the_very_place_that_was_told_is_accepted(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    point = _point(held, 5, b"h" * 16, 5)
    for step, h in ((1, b"h" * 16), (0, held.before.h), (2, held.before.h)):
        wrong = resume_pb2.Checkpoint(step=step, h=h)
        told(await open_fault(channel, accept_regression=wrong, **point), grpc.StatusCode.DATA_LOSS, "STATE_REGRESSED")
    newer = WireStream(channel)
    right = resume_pb2.Checkpoint(step=1, h=held.before.h)
    opened = await newer.open(accept_regression=right, **point)
    assert (opened.created, opened.step) == (False, 1)
    reply = await newer.replied(2, number(14))
    assert reply.outputs.SerializeToString() == held.answers[1]
    await newer.close()


@pytest.mark.parametrize("step", [0, 1])
async def test_79_another_lineage_is_refused(channel: grpc.aio.Channel, name: str, step: int) -> None:
    held = await witness(channel, name)
    with counted("LINEAGE_MISMATCH"):
        mismatch = await open_fault(channel, **_point(held, step, b"h" * 16, step))
    told(mismatch, PRECONDITION, "LINEAGE_MISMATCH")
    assert mismatch.position is not None
    assert (mismatch.position.step, mismatch.position.h) == (1, held.before.h)
    await held.unharmed()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"create_token": b"short"}, "create_token"),
        ({"create_token": b"t" * 17}, "create_token"),
        ({"found_epoch": 2**53}, "found_epoch"),
        ({"resume_point": resume_pb2.ResumePoint()}, "resume_point.received.h"),
        (
            {"resume_point": resume_pb2.ResumePoint(received=resume_pb2.Checkpoint(step=2**53, h=b"h" * 16))},
            "resume_point.received.step",
        ),
        (
            {"resume_point": resume_pb2.ResumePoint(received=resume_pb2.Checkpoint(h=b"h" * 16), durable_step=2**53)},
            "resume_point.durable_step",
        ),
        (
            {"resume_point": resume_pb2.ResumePoint(received=resume_pb2.Checkpoint(h=b"h" * 16), incarnation=b"short")},
            "resume_point.incarnation",
        ),
        (
            {"resume_point": resume_pb2.ResumePoint(received=resume_pb2.Checkpoint(h=b"h" * 16), store_id=b"s" * 65)},
            "resume_point.store_id",
        ),
        ({"accept_regression": resume_pb2.Checkpoint(step=1, h=b"short")}, "accept_regression.h"),
        ({"constants": [tensor(number(1))], "mode": pb.OPEN_MODE_RESUME}, "constants"),
        ({"outputs": ["y"], "mode": pb.OPEN_MODE_RESUME}, "outputs"),
    ],
    ids=lambda value: value.replace(".", "-") if isinstance(value, str) else "79",
)
async def test_a_resume_point_that_cannot_be_one_is_refused(
    channel: grpc.aio.Channel, name: str, fields: dict[str, object], field: str
) -> None:
    held = await witness(channel, name)
    with counted("INVALID_INPUT"):
        fault = await open_fault(channel, **{"session_id": name, "model": "checker", **fields})
    told(fault, INVALID, "INVALID_INPUT", field)
    await held.unharmed()


async def test_80_a_half_close_without_close_leaves_the_session_resumable(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    await held.stream.close()
    assert await held.stream.call.code() is grpc.StatusCode.OK

    async def released() -> bool:
        return not (await seen(channel, name)).lease.ToMilliseconds()

    await until(released)
    newer = WireStream(channel)
    opened = await newer.open(name, mode=pb.OPEN_MODE_RESUME, found_epoch=held.opened.epoch)
    assert (opened.step, opened.h) == (1, held.before.h)
    assert (await newer.replied(2, number(14))).outputs.SerializeToString() == held.answers[1]
    await newer.close()


async def test_81_a_client_that_cancels_in_mid_commit_resumes_where_the_store_stands(
    own_place: Place, own_store: EmbeddedStore, name: str
) -> None:
    async with replica(own_place) as server, connected(server) as channel:
        held = await witness(channel, name)
        async with writes_held(own_store.url) as waiting:
            await held.stream.send(pb.StreamRequest(timestep=good("checker", 2)))
            await until(waiting)
            held.stream.call.cancel()
            assert await held.stream.call.code() is grpc.StatusCode.CANCELLED
        newer = WireStream(channel)
        point = _point(held, 1, held.before.h, 1)
        opened = await newer.open(**point)  # behind the commit on the store, which went on without its client
        assert opened.step == 2
        response = await newer.ask(pb.StreamRequest(timestep=good("checker", 2)))
        assert response.reply.replayed
        assert response.reply.outputs.SerializeToString() == held.answers[1]
        third = await newer.ask(pb.StreamRequest(timestep=good("checker", 3)))
        assert third.reply.outputs.SerializeToString() == held.answers[2]
        await newer.close()


async def test_86_an_open_while_draining_is_refused_with_a_delay(
    own_place: Place, own_store: EmbeddedStore, name: str
) -> None:
    leaving = replica(own_place)
    server = await leaving.__aenter__()
    async with connected(server) as channel:
        held = await witness(channel, name)
        async with writes_held(own_store.url) as waiting:
            await held.stream.send(pb.StreamRequest(timestep=good("checker", 2)))
            await until(waiting)
            left = asyncio.create_task(leaving.__aexit__(None, None, None))

            async def draining() -> bool:
                return bool(metrics.DRAINING._value.get() == 1)

            await until(draining)
            with counted("DRAINING"):
                stream = await open_fault(channel, session_id="new", model="checker")
            unary = await call_fault(channel, pb.Open(session_id="new", model="checker"), good("checker", 1))
        for fault in (stream, unary):
            told(fault, grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert fault.retry_seconds is not None
        last = await held.stream.read()  # the step in hand was finished first
        assert last.reply.outputs.SerializeToString() == held.answers[1]
        told(await held.stream.ended(), grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await left


async def test_87_more_than_the_window_in_flight_is_no_error_and_reading_pauses(
    own_place: Place, own_store: EmbeddedStore, name: str
) -> None:
    many = 40
    labels = ("bidi_stream", "cellwire.v1.CellService", "Stream")
    async with replica(own_place, window=WINDOW) as server, connected(server) as channel:
        stream = WireStream(channel)
        await stream.open(name)
        before = metrics.MESSAGES.received[labels]
        async with writes_held(own_store.url) as waiting:
            for step in range(1, many + 1):
                await stream.send(pb.StreamRequest(timestep=good("checker", step)))
            await until(waiting)
            models = model_service_pb2_grpc.ModelServiceStub(channel)
            for _ in range(3):  # behind the timesteps on the same connection: those have arrived
                await models.GetModel(model_pb.GetModelRequest(name="checker"))
            assert metrics.MESSAGES.received[labels] - before <= WINDOW
        replies = [(await stream.read()).reply for _ in range(many)]
        assert [reply.step for reply in replies] == list(range(1, many + 1))
        assert int(arrays(replies[-1].outputs)["y"][0]) == checked([7 * step for step in range(1, many + 1)])[-1]
        await stream.close()


@pytest.mark.parametrize(
    ("fields", "field"), [({"mode": 99}, "mode"), ({"mode": 4}, "mode"), ({"write_mode": 99}, "write_mode")]
)
async def test_89_an_unknown_enum_value_at_open_is_refused(
    channel: grpc.aio.Channel, name: str, fields: dict[str, object], field: str
) -> None:
    held = await witness(channel, name)
    told(
        await open_fault(channel, session_id=name, model="checker", create_token=held.token, **fields),
        INVALID,
        "INVALID_INPUT",
        field,
    )
    await held.unharmed()


async def test_90_unknown_fields_are_ignored(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name)
    good_one = pb.StreamRequest(timestep=good("checker", 2)).SerializeToString()
    await held.stream.send_bytes(good_one + _unknown_field(1_000_000))
    assert (await held.stream.read()).reply.outputs.SerializeToString() == held.answers[1]
    await held.stream.send_bytes(
        pb.StreamRequest(timestep=_with_unknown_fields(good("checker", 3))).SerializeToString()
    )
    assert (await held.stream.read()).reply.outputs.SerializeToString() == held.answers[2]
    await held.stream.close()


def _unknown_field(size: int) -> bytes:
    length = bytearray()
    left = size
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    return b"\xc2\x3e" + bytes(length) + bytes(size)  # field 1000, of bytes


def _with_unknown_fields(timestep: pb.Timestep) -> pb.Timestep:
    return pb.Timestep.FromString(timestep.SerializeToString() + _unknown_field(1000))


# D. Tensors


def _drop(message: pb.Timestep) -> None:
    del message.inputs[1]


def _drop_all(message: pb.Timestep) -> None:
    del message.inputs[:]


def _nameless_and_one_short(message: pb.Timestep) -> None:
    del message.inputs[2]
    for each in message.inputs:
        each.name = ""


def _some_nameless(message: pb.Timestep) -> None:
    message.inputs[0].name = ""


def _rename(name: str) -> Callable[[pb.Timestep], None]:
    def rename(message: pb.Timestep) -> None:
        message.inputs[0].name = name

    return rename


def _twice(message: pb.Timestep) -> None:
    message.inputs.append(message.inputs[0])


def _state(message: pb.Timestep) -> None:
    message.inputs.append(tensor(np.zeros(1, np.float32), "state"))


def _dtype(dtype: int) -> Callable[[pb.Timestep], None]:
    def change(message: pb.Timestep) -> None:
        message.inputs[0].dtype = dtype  # type: ignore[assignment]

    return change


def _shape(*shape: int) -> Callable[[pb.Timestep], None]:
    def change(message: pb.Timestep) -> None:
        message.inputs[0].shape[:] = shape

    return change


def _cut(message: pb.Timestep) -> None:
    message.inputs[0].data = message.inputs[0].data[:-1]


def _no_data(message: pb.Timestep) -> None:
    message.inputs[0].data = b""


def _longer(message: pb.Timestep) -> None:
    message.inputs[0].data += b"\0"


def _value(value: float) -> Callable[[pb.Timestep], None]:
    def change(message: pb.Timestep) -> None:
        numbers = np.frombuffer(message.inputs[0].data, np.dtype(DTYPE_OF[message.inputs[0].dtype])).copy()
        numbers[-1] = value
        message.inputs[0].data = numbers.tobytes()

    return change


def _index(value: int) -> Callable[[pb.Timestep], None]:
    def change(message: pb.Timestep) -> None:
        (index,) = (each for each in message.inputs if each.name == "index")
        index.data = number(value).tobytes()

    return change


def _mask(message: pb.Timestep) -> None:
    message.inputs[2].data = b"\x01\x02"


DTYPE_OF = {tensor_pb2.DATA_TYPE_FLOAT32: "<f4", tensor_pb2.DATA_TYPE_FLOAT64: "<f8"}
Spoil = Callable[[pb.Timestep], None]
TENSORS = [
    pytest.param("mixed", _drop, "inputs.index", id="91-one-missing"),
    pytest.param("mixed", _drop_all, "inputs", id="91-all-missing"),
    pytest.param("smooth", _drop_all, "inputs", id="91-the-only-one-missing"),
    pytest.param("mixed", _nameless_and_one_short, "inputs", id="91-nameless-and-one-short"),
    pytest.param("mixed", _rename("other"), "inputs.other", id="92-unknown-name"),
    pytest.param("smooth", _rename("other"), "inputs.other", id="92-unknown-name-of-the-only-one"),
    pytest.param("mixed", _some_nameless, "inputs", id="92-some-nameless"),
    pytest.param("mixed", _twice, "inputs.x", id="93-twice"),
    pytest.param("smooth", _twice, "inputs.x", id="93-the-only-one-twice"),
    pytest.param("mixed", _state, "inputs.state", id="94-the-state-too"),
    pytest.param("smooth", _rename("state"), "inputs.state", id="94-the-state-instead"),
    pytest.param("smooth", _dtype(tensor_pb2.DATA_TYPE_FLOAT64), "inputs.x.dtype", id="96-float64-for-float32"),
    pytest.param("mixed", _dtype(tensor_pb2.DATA_TYPE_INT32), "inputs.x.dtype", id="96-same-width"),
    pytest.param("wide", _dtype(tensor_pb2.DATA_TYPE_INT64), "inputs.x.dtype", id="96-same-width-of-eight"),
    pytest.param("smooth", _dtype(0), "inputs.x.dtype", id="97-none"),
    pytest.param("wide", _dtype(0), "inputs.x.dtype", id="97-none-for-float64"),
    pytest.param("wide", _dtype(13), "inputs.x.dtype", id="89-97-unknown-for-float64"),
    pytest.param("smooth", _dtype(13), "inputs.x.dtype", id="89-97-unknown"),
    pytest.param("smooth", _dtype(-1), "inputs.x.dtype", id="89-97-negative"),
    pytest.param("mixed", _shape(6), "inputs.x.shape", id="98-rank-too-small"),
    pytest.param("smooth", _shape(), "inputs.x.shape", id="98-no-rank"),
    pytest.param("mixed", _shape(2, 3, 1), "inputs.x.shape", id="98-rank-too-large"),
    pytest.param("mixed", _shape(3, 2), "inputs.x.shape", id="99-turned"),
    pytest.param("smooth", _shape(5), "inputs.x.shape", id="99-one-more"),
    pytest.param("smooth", _shape(-4), "inputs.x.shape", id="100-negative"),
    pytest.param("mixed", _shape(-2, -3), "inputs.x.shape", id="100-both-negative"),
    pytest.param("smooth", _shape(0), "inputs.x.shape", id="101-zero"),
    pytest.param("mixed", _shape(2**32, 2**32), "inputs.x.shape", id="102-product-beyond-int64"),
    pytest.param("mixed", _shape(2**62, 4, 6), "inputs.x.shape", id="102-product-wraps-to-zero"),
    pytest.param("smooth", _shape(*[1] * 100_000), "inputs.x.shape", id="102-a-hundred-thousand-dimensions"),
    pytest.param("smooth", _cut, "inputs.x.data", id="103-one-byte-short"),
    pytest.param("smooth", _no_data, "inputs.x.data", id="103-empty"),
    pytest.param("smooth", _longer, "inputs.x.data", id="104-one-byte-long"),
    pytest.param("smooth", _shape(1, 4), "inputs.x.shape", id="105-a-batch-axis-of-1"),
    pytest.param("mixed", _shape(2, 2, 3), "inputs.x.shape", id="105-a-batch-of-2"),
    pytest.param("smooth", _value(float("nan")), "inputs.x.data", id="106-nan"),
    pytest.param("wide", _value(float("nan")), "inputs.x.data", id="106-nan-of-float64"),
    pytest.param("smooth", _value(float("inf")), "inputs.x.data", id="107-infinity"),
    pytest.param("mixed", _value(float("-inf")), "inputs.x.data", id="107-minus-infinity"),
    pytest.param("mixed", _index(10), "inputs.index.data", id="109-one-beyond-the-range"),
    pytest.param("mixed", _index(-1), "inputs.index.data", id="109-negative"),
    pytest.param("mixed", _index(2**63 - 1), "inputs.index.data", id="109-the-largest"),
    pytest.param("mixed", _mask, "inputs.mask.data", id="109-a-boolean-of-2"),
]


@pytest.mark.parametrize(("model", "spoil", "field"), TENSORS)
async def test_a_tensor_that_is_not_what_the_model_takes_is_refused(
    channel: grpc.aio.Channel, name: str, model: str, spoil: Spoil, field: str
) -> None:
    bad = good(model, 2)
    spoil(bad)
    held = await witness(channel, name, model)
    with counted("INVALID_INPUT"):
        told(await refused(held.stream, pb.StreamRequest(timestep=bad)), INVALID, "INVALID_INPUT", field)
    await held.unharmed()
    open_ = pb.Open(session_id=f"{name}-unary", model=model, create_token=held.token)
    await call(channel, open_, good(model, 1))
    with counted("INVALID_INPUT"):
        told(await call_fault(channel, open_, bad), INVALID, "INVALID_INPUT", field)
    response = await call(channel, open_, good(model, 2))
    assert response.reply.outputs.SerializeToString() == held.answers[1]


async def test_105_the_leading_axis_must_be_the_timesteps(channel: grpc.aio.Channel, name: str) -> None:
    held = await witness(channel, name, "smooth")
    for timesteps, shape in ((2, (4,)), (2, (3, 4)), (1, (4,))):
        wrong = pb.Timestep(step=2, timesteps=timesteps, inputs=[tensor(np.zeros(shape, np.float32))])
        told(await refused(held.stream, pb.StreamRequest(timestep=wrong)), INVALID, "INVALID_INPUT", "inputs.x.shape")
    await held.unharmed()


@pytest.mark.parametrize("wanted", ["state_out", "state", "nothing", ""])
async def test_95_an_output_that_is_none_is_refused(channel: grpc.aio.Channel, name: str, wanted: str) -> None:
    with counted("INVALID_INPUT"):
        fault = await open_fault(channel, session_id=name, model="smooth", outputs=["y", wanted])
    told(fault, INVALID, "INVALID_INPUT", "outputs")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await seen(channel, name)
    assert error.value.code() is NOT_FOUND


@pytest.mark.parametrize(
    ("constants", "field"),
    [
        pytest.param([], "constants", id="91-missing"),
        pytest.param([tensor(np.zeros(1, np.float32), "other")], "constants.other", id="92-unknown"),
        pytest.param([tensor(np.zeros(1, np.float32), "bias")] * 2, "constants.bias", id="93-twice"),
        pytest.param([tensor(np.zeros(1, np.float64), "bias")], "constants.bias.dtype", id="96-dtype"),
        pytest.param([tensor(np.zeros(2, np.float32), "bias")], "constants.bias.shape", id="99-shape"),
        pytest.param([tensor(np.full(1, np.nan, np.float32))], "constants.bias.data", id="106-nan"),
    ],
)
async def test_a_constant_that_is_not_what_the_model_takes_is_refused(
    channel: grpc.aio.Channel, name: str, constants: list[tensor_pb2.Tensor], field: str
) -> None:
    with counted("INVALID_INPUT"):
        told(
            await open_fault(channel, session_id=name, model="tuned", constants=constants),
            INVALID,
            "INVALID_INPUT",
            field,
        )
    stream = WireStream(channel)
    assert (await stream.open(name, "tuned", constants=[tensor(np.ones(1, np.float32))])).created
    reply = await stream.replied(1, np.ones(1, np.float32))
    assert arrays(reply.outputs)["y"][0] == pytest.approx(np.tanh(2.0))
    await stream.close()


ODD = np.array([-0.0, np.float32(1e-45), np.finfo(np.float32).max, np.finfo(np.float32).min], np.float32)


async def test_108_odd_but_finite_numbers_are_taken_and_always_give_the_same_bits(
    channel: grpc.aio.Channel, name: str
) -> None:
    runs = []
    for run in ("a", "b"):
        stream = WireStream(channel)
        await stream.open(f"{name}-{run}", "smooth")
        runs.append([(await stream.replied(step, ODD)).outputs.SerializeToString() for step in (1, 2, 3)])
        if run == "b":
            assert (await stream.replied(3, ODD)).replayed
            plus = ODD.copy()
            plus[0] = 0.0  # equal to -0.0, but other bytes
            response = await stream.ask(pb.StreamRequest(timestep=pb.Timestep(step=3, inputs=[tensor(plus)])))
            told(fault(response.refused.status), PRECONDITION, "STEP_CONFLICT")
        await stream.close()
    assert runs[0] == runs[1]
    state = np.zeros(4, np.float32)
    for answer in runs[0]:
        state = ODD * np.float32(0.5) + state * np.float32(0.5)
        assert np.frombuffer(answer[-16:], np.float32).tobytes() == state.tobytes()


@pytest.mark.parametrize("index", [4, -5, 2**63 - 1, -(2**63)])
async def test_109_an_index_that_only_the_graph_finds_wrong_fails_its_own_step(
    channel: grpc.aio.Channel, name: str, index: int
) -> None:
    held = await witness(channel, name, "loose")
    bad = good("loose", 2)
    _index(index)(bad)
    with counted("MODEL_FAILED"):
        failed = await refused(held.stream, pb.StreamRequest(timestep=bad))
    told(failed, grpc.StatusCode.INTERNAL, "MODEL_FAILED")
    assert "Gather" not in failed.message
    await held.unharmed()


async def test_109_a_batch_mate_of_a_failing_step_is_answered(channel: grpc.aio.Channel, name: str) -> None:
    mates = [await witness(channel, f"{name}-{at}", "loose") for at in range(4)]
    bad = good("loose", 2)
    _index(4)(bad)
    spoiled, *others = mates
    answers = await asyncio.gather(
        spoiled.stream.ask(pb.StreamRequest(timestep=bad)),
        *(mate.stream.ask(pb.StreamRequest(timestep=good("loose", 2))) for mate in others),
    )
    assert [answer.WhichOneof("kind") for answer in answers] == ["refused", "reply", "reply", "reply"]
    assert {answer.reply.outputs.SerializeToString() for answer in answers[1:]} == {spoiled.answers[1]}
    await spoiled.unharmed()
    for mate in others:
        await mate.stream.close()


NOT_UTF8 = b"\xff\xfe"
# A string field with bytes that are none: the Timestep's tensor's name, and the Open's session id.
BAD_NAME = pb.StreamRequest(timestep=pb.Timestep(step=2, inputs=[tensor_pb2.Tensor(name="##")])).SerializeToString()
BAD_ID = pb.Open(session_id="##", model="checker").SerializeToString()
UNPARSABLE = [
    pytest.param(BAD_NAME.replace(b"##", NOT_UTF8), id="111-a-name-that-is-not-utf-8"),
    pytest.param(b"\xff" * 20, id="112-all-ones"),
    pytest.param(b"\x12", id="112-a-tag-without-a-value"),
    pytest.param(b"\x12\xff\xff\xff\xff\x0f", id="112-a-length-of-4-gib"),
    pytest.param(b"\x12\x02\x0a\x00\x0b" * 50, id="112-an-open-group"),
    pytest.param(bytes([0x1A, 0x64, *np.random.default_rng(7).bytes(99)]), id="112-random"),
]


@pytest.mark.parametrize("raw", UNPARSABLE)
async def test_bytes_that_are_no_message_are_refused_in_band(channel: grpc.aio.Channel, name: str, raw: bytes) -> None:
    held = await witness(channel, name)
    with counted("INVALID_INPUT"):
        told(await refused(held.stream, raw), INVALID, "INVALID_INPUT", "message")
    await held.unharmed()


@pytest.mark.parametrize("raw", [*UNPARSABLE, pytest.param(BAD_ID.replace(b"##", NOT_UTF8), id="111-a-session-id")])
async def test_bytes_that_are_no_message_are_refused_as_the_first_and_by_every_method(
    channel: grpc.aio.Channel, raw: bytes
) -> None:
    first = b"\x0a" + bytes([len(raw)]) + raw if len(raw) < 128 and b"checker" in raw else raw
    stream = RawStream(channel)
    await stream.send_bytes(first)
    told(await stream.ended(), INVALID, "INVALID_INPUT", "message")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await pb_call(channel, first)
    told(fault_of(error.value), INVALID, "INVALID_INPUT", "message")


@pytest.mark.parametrize("place_of", ["output", "state"])
async def test_113_what_is_not_finite_is_not_committed(channel: grpc.aio.Channel, name: str, place_of: str) -> None:
    held = await witness(channel, name, "wild")
    x = np.array([100, 0] if place_of == "output" else [0, 100], np.float32)
    before = metrics.NON_FINITE.labels("wild")._value.get()
    with counted("NON_FINITE"):
        bad = await refused(held.stream, pb.StreamRequest(timestep=pb.Timestep(step=2, inputs=[tensor(x)])))
    told(bad, grpc.StatusCode.INTERNAL, "NON_FINITE")
    assert metrics.NON_FINITE.labels("wild")._value.get() == before + 1
    await held.unharmed()
