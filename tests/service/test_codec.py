"""Between protobuf and values: spliced bytes are the very message, and no message gets by unchecked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import resume_pb2, tensor_pb2
from service.codec import (
    UNREADABLE,
    OpenRequest,
    Reply,
    Unreadable,
    decode_constants,
    decode_open,
    decode_outputs,
    decode_stream,
    decode_timestep,
    encode_reply,
    encode_status,
    first_message,
    reader,
    reply_message,
)
from service.errors import CellwireError, InvalidInput, OpenExpected, Unsupported
from service.tensors import DTYPES, WIRE_TYPES, OutputsEncoder
from service.values import MAX_STEP, InputSpec, ModelSpec, Row, TensorSpec, Timestep
from tests.messages import fields_of, mutations
from tests.specs import F32, I64, spec

FULL_OPEN = pb.Open(
    session_id="s",
    create_token=bytes(16),
    mode=pb.OPEN_MODE_CREATE_OR_RESUME,
    model="m",
    version="1",
    found_epoch=7,
    resume_point=resume_pb2.ResumePoint(
        received=resume_pb2.Checkpoint(step=3, h=bytes(16)),
        durable_step=2,
        store_id=b"store",
        incarnation=bytes(16),
        undurable=[resume_pb2.Checkpoint(step=3, h=bytes(16))],
    ),
    accept_regression=resume_pb2.Checkpoint(step=1, h=bytes(16)),
    outputs=["y"],
)
SPEC = spec(inputs=(InputSpec("x", F32, (3,)), InputSpec("index", I64, (), low=0, high=9)))


def outputs_spec(*tensors: TensorSpec) -> ModelSpec:
    return spec(outputs=tensors[:-1], gates=tensors[-1:])


def drawn(tensors: list[TensorSpec], timesteps: int) -> list[Row]:
    random = np.random.default_rng(7)
    return [tuple(random.bytes(tensor.nbytes) for tensor in tensors) for _ in range(max(1, timesteps))]


def built(tensors: list[TensorSpec], names: list[str], timesteps: int, rows: list[Row]) -> tensor_pb2.Outputs:
    """The same outputs by protobuf's own means."""
    message = tensor_pb2.Outputs()
    for at, tensor in enumerate(tensors):
        if tensor.name in names:
            shape = (timesteps, *tensor.shape) if timesteps else tensor.shape
            data = b"".join(row[at] for row in rows)
            message.tensors.add(name=tensor.name, dtype=WIRE_TYPES[tensor.dtype], shape=shape, data=data)
    return message


@pytest.mark.parametrize("timesteps", [0, 1, 5, 64])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_encoded_outputs_are_the_bytes_that_protobuf_makes(dtype: np.dtype, timesteps: int) -> None:
    tensors = [TensorSpec("y", dtype, (2, 30)), TensorSpec("z", dtype, ()), TensorSpec("gate", F32, (300,))]
    rows = drawn(tensors, timesteps)
    for names in (["y", "z", "gate"], ["y"], ["gate"], ["z", "gate"]):
        encode = OutputsEncoder(outputs_spec(*tensors), names)
        expected = built(tensors, names, timesteps, rows).SerializeToString()
        assert encode(timesteps, rows) == expected
        assert encode(timesteps, rows) == expected


@given(
    step=st.integers(1, MAX_STEP),
    h=st.binary(min_size=16, max_size=16),
    epoch=st.integers(0, MAX_STEP),
    durable=st.integers(0, MAX_STEP),
    timesteps=st.integers(0, 64),
    size=st.integers(0, 300),
    replayed=st.booleans(),
)
def test_a_spliced_reply_parses_to_the_very_message(
    step: int, h: bytes, epoch: int, durable: int, timesteps: int, size: int, replayed: bool
) -> None:
    outputs = tensor_pb2.Outputs(tensors=[tensor_pb2.Tensor(name="y", dtype="DATA_TYPE_UINT8", data=bytes(size))])
    reply = Reply(step, h, epoch, durable, timesteps, outputs.SerializeToString(), replayed)
    message = pb.Reply(
        step=step,
        h=h,
        epoch=epoch,
        durable_step=durable,
        timesteps=timesteps,
        replayed=replayed,
        outputs=outputs,
    )
    assert pb.StreamResponse.FromString(encode_reply(reply)) == pb.StreamResponse(reply=message)
    assert reply_message(reply) == message


def good(step: int = 1, timesteps: int = 0) -> pb.Timestep:
    lead = (timesteps,) if timesteps else ()
    count = max(1, timesteps)
    return pb.Timestep(
        step=step,
        timesteps=timesteps,
        inputs=[
            tensor_pb2.Tensor(dtype="DATA_TYPE_FLOAT32", shape=(*lead, 3), data=np.ones(3 * count, F32).tobytes()),
            tensor_pb2.Tensor(dtype="DATA_TYPE_INT64", shape=lead, data=np.full(count, 9, I64).tobytes()),
        ],
    )


@pytest.mark.parametrize("timesteps", [0, 1, 5])
def test_a_good_timestep_comes_through_row_by_row(timesteps: int) -> None:
    row = (np.ones(3, F32).tobytes(), np.array(9, I64).tobytes())
    decoded = decode_timestep(good(7, timesteps), SPEC, False, 64, 0.0)
    assert decoded == Timestep(7, timesteps, (row,) * max(1, timesteps))


@given(st.binary(max_size=200) | mutations(good(1).SerializeToString()) | mutations(good(2, 2).SerializeToString()))
def test_any_bytes_as_a_timestep_are_one_or_invalid_input(raw: bytes) -> None:
    message = reader(pb.Timestep.FromString)(raw)
    if message is UNREADABLE:
        return
    assert isinstance(message, pb.Timestep)
    try:
        timestep = decode_timestep(message, SPEC, False, 64, 0.0)
    except InvalidInput as error:
        told(error)
        return
    assert 1 <= timestep.step <= MAX_STEP
    assert len(timestep.rows) == max(1, timestep.timesteps) <= 64
    for x, index in timestep.rows:
        assert np.isfinite(np.frombuffer(x, F32)).all()
        assert len(x) == 12
        assert 0 <= int(np.frombuffer(index, I64)[0]) <= 9


def told(error: CellwireError) -> None:
    """It can be sent, and an InvalidInput names its field."""
    assert encode_status(error).message == error.message
    assert bool(error.fields) == isinstance(error, InvalidInput)


@given(fields_of(pb.Open) | mutations(FULL_OPEN.SerializeToString()).map(reader(pb.Open.FromString)))
def test_any_open_is_checked_or_refused(message: pb.Open | Unreadable) -> None:
    if isinstance(message, Unreadable):
        return
    try:
        request = decode_open(message)
    except (InvalidInput, Unsupported) as error:
        told(error)
        return
    assert isinstance(request, OpenRequest)
    assert len(request.create_token) in (0, 16)
    assert 1 <= len(request.session_id) <= 128
    assert request.found_epoch <= MAX_STEP
    point = request.resume_point
    for checkpoint in (point.received, *point.undurable) if point else ():
        assert checkpoint.step <= MAX_STEP
        assert len(checkpoint.h) == 16


@given(fields_of(pb.Timestep))
def test_any_timestep_message_is_checked_or_refused(message: pb.Timestep) -> None:
    for unnumbered in (False, True):
        try:
            decode_timestep(message, SPEC, unnumbered, 64, 0.0)
        except InvalidInput as error:
            told(error)


tensors = st.lists(fields_of(tensor_pb2.Tensor), max_size=3)


@given(tensors, st.lists(st.text(max_size=5) | st.sampled_from(["y", "gate"]), max_size=4), st.booleans())
def test_any_constants_and_outputs_are_checked_or_refused(
    constants: list[tensor_pb2.Tensor], outputs: list[str], gates: bool
) -> None:
    model = spec(constants=SPEC.inputs, gates=(TensorSpec("gate", F32, (2,)),))
    try:
        assert [len(data) for data in decode_constants(model, constants)] == [12, 8]
    except InvalidInput as error:
        told(error)
    try:
        chosen = decode_outputs(model, outputs, gates)
    except InvalidInput as error:
        told(error)
        return
    assert chosen in {("y",), ("gate",), ("y", "gate")}
    assert set(outputs) <= set(chosen)


@given(st.binary(max_size=100) | mutations(pb.StreamRequest(timestep=good()).SerializeToString()))
def test_any_bytes_as_a_stream_message_are_one_or_refused(raw: bytes) -> None:
    message = reader(pb.StreamRequest.FromString)(raw)
    try:
        assert decode_stream(message).WhichOneof("kind")
        first_message(message)
    except (InvalidInput, OpenExpected) as error:
        told(error)


@pytest.mark.parametrize("error", CellwireError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_with_its_reason(error: type[CellwireError]) -> None:
    status = encode_status(error("text"))
    assert status.code == error.code.value[0]
    assert error.reason.encode() in status.details[0].value
