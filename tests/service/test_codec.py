"""Between protobuf and values: spliced bytes are the very message, and no message gets by unchecked."""

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import tensor_pb2
from service.codec import (
    UNREADABLE,
    OpenRequest,
    Reply,
    decode_open,
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
from tests.specs import F32, I64, spec

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


def mutated(message: pb.Timestep, at: int, data: bytes) -> bytes:
    raw = message.SerializeToString()
    at %= len(raw)
    return raw[:at] + data + raw[at + len(data) :]


@given(
    st.binary(max_size=200)
    | st.builds(mutated, st.builds(good, timesteps=st.integers(0, 2)), st.integers(0), st.binary(max_size=8))
)
def test_any_bytes_as_a_timestep_are_one_or_invalid_input(raw: bytes) -> None:
    message = reader(pb.Timestep.FromString)(raw)
    if message is UNREADABLE:
        return
    assert isinstance(message, pb.Timestep)
    try:
        timestep = decode_timestep(message, SPEC, False, 64, 0.0)
    except InvalidInput as error:
        encode_status(error)
        return
    assert 1 <= timestep.step <= MAX_STEP
    assert len(timestep.rows) == max(1, timestep.timesteps) <= 64
    for x, index in timestep.rows:
        assert np.isfinite(np.frombuffer(x, F32)).all()
        assert len(x) == 12
        assert 0 <= int(np.frombuffer(index, I64)[0]) <= 9


def fields_of(kind: type[Message]) -> st.SearchStrategy[Any]:
    """Messages of a type with any values in any fields."""
    values: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.DESCRIPTOR.fields:
        one: st.SearchStrategy[Any] | None = {
            field.TYPE_UINT64: st.integers(0, 2**64 - 1) | st.integers(0, 5),
            field.TYPE_UINT32: st.integers(0, 2**32 - 1) | st.just(0),
            field.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
            field.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
            field.TYPE_ENUM: st.integers(0, 4) | st.integers(-(2**31), 2**31 - 1),
            field.TYPE_BYTES: st.binary(max_size=20) | st.binary(min_size=16, max_size=16),
            field.TYPE_STRING: st.text(max_size=5) | st.just("x") | st.just("s-1"),
            field.TYPE_BOOL: st.booleans(),
        }.get(field.type)
        if one is None:
            inner: Any = field.message_type
            if inner.full_name.startswith("google."):
                continue
            one = fields_of(inner._concrete_class)
        values[field.name] = st.lists(one, max_size=2) if field.is_repeated else one
    return st.fixed_dictionaries({}, optional=values).map(lambda chosen: kind(**chosen))


@given(fields_of(pb.Open))
def test_any_open_is_checked_or_refused(message: pb.Open) -> None:
    try:
        request = decode_open(message)
    except (InvalidInput, Unsupported) as error:
        encode_status(error)
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
            encode_status(error)


@given(st.binary(max_size=100))
def test_any_bytes_as_a_stream_message_are_one_or_refused(raw: bytes) -> None:
    message = reader(pb.StreamRequest.FromString)(raw)
    try:
        assert decode_stream(message).WhichOneof("kind")
        first_message(message)
    except (InvalidInput, OpenExpected) as error:
        encode_status(error)


@pytest.mark.parametrize("error", CellwireError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_with_its_reason(error: type[CellwireError]) -> None:
    status = encode_status(error("text"))
    assert status.code == error.code.value[0]
    assert error.reason.encode() in status.details[0].value
