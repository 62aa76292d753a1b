"""Columns against the messages of single sessions that they stand for, and the order of gathered answers."""

import asyncio
from itertools import count

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import example, given
from hypothesis import strategies as st

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import tensor_pb2
from service.answers import Answers, Recipient
from service.codec import Reply, decode_timestep
from service.columns import decode_columns, encode_columns
from service.errors import AlreadyOpen, InvalidInput, StateCorrupt, StepGap
from service.many import MAX_OTHERS, UsedHandles
from service.tensors import WIRE_TYPES, OutputsEncoder
from service.values import MAX_STEP, InputSpec, TensorSpec, Timestep
from tests.many import columns, taken_apart
from tests.messages import fields_of
from tests.specs import F32, I64, spec

MODEL = spec(
    inputs=(
        InputSpec("x", F32, (2,)),
        InputSpec("index", I64, (), low=0, high=3),
        InputSpec("mask", np.dtype(np.bool_), (1,)),
    ),
    outputs=(TensorSpec("y", F32, (2,)), TensorSpec("n", I64, ())),
    gates=(TensorSpec("g", F32, (3,)),),
)
MAX_TIMESTEPS = 4
RECEIVED = 100.0


@st.composite
def fitting(draw: st.DrawFn) -> pb.TimestepColumns:
    """Columns of MODEL, of which some numbers and steps are not."""
    handles, timesteps = draw(st.integers(1, 5)), draw(st.integers(0, MAX_TIMESTEPS))
    message = pb.TimestepColumns(handles=range(handles), timesteps=timesteps, priority=draw(st.integers(-9, 9)))
    message.steps.extend(draw(st.lists(st.integers(1, 9) | st.just(2**64 - 1), min_size=handles, max_size=handles)))
    if draw(st.booleans()):
        message.timeout.CopyFrom(draw(st.sampled_from([Duration(seconds=2), Duration(), Duration(nanos=-1)])))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    for tensor in MODEL.inputs:
        shape = (handles, *([timesteps] if timesteps else []), *tensor.shape)
        if tensor.dtype == F32:
            values = random.choice(np.array([0, 1, np.nan, np.inf], F32), shape, p=[0.6, 0.3, 0.05, 0.05])
        else:
            values = random.choice(4 + (tensor.dtype == I64), shape, p=None).astype(tensor.dtype)
            if tensor.dtype == np.bool_ and random.random() < 0.3:
                values = random.integers(0, 3, shape, dtype=np.uint8)
        data = values.tobytes()
        message.inputs.add(dtype=WIRE_TYPES[tensor.dtype], shape=shape, data=data)
    return message


def row(message: pb.TimestepColumns, at: int) -> pb.Timestep:
    """The message that a handle would have been sent on a stream of its own."""
    handles = len(message.handles)
    single = pb.Timestep(step=message.steps[at], timesteps=message.timesteps, priority=message.priority)
    if message.HasField("timeout"):
        single.timeout.CopyFrom(message.timeout)
    for column in message.inputs:
        size = len(column.data) // handles
        data = column.data[at * size : (at + 1) * size]
        single.inputs.add(dtype=column.dtype, shape=column.shape[1:], data=data)
    return single


def decoded(message: pb.Timestep) -> Timestep | InvalidInput:
    try:
        return decode_timestep(message, MODEL, False, MAX_TIMESTEPS, RECEIVED)
    except InvalidInput as error:
        return error


def decoded_together(message: pb.TimestepColumns) -> list[Timestep | InvalidInput]:
    """What each handle gets; what is wrong with all of it, each of them."""
    try:
        return decode_columns(message, MODEL, MAX_TIMESTEPS, RECEIVED)
    except InvalidInput as error:
        return [error] * len(message.handles)


@given(fitting())
def test_each_row_is_what_its_message_alone_would_be(message: pb.TimestepColumns) -> None:
    alone = [decoded(row(message, at)) for at in range(len(message.handles))]
    for one, other in zip(decoded_together(message), alone, strict=True):
        if isinstance(other, InvalidInput):
            assert isinstance(one, InvalidInput)
        else:
            assert (type(one), one) == (Timestep, other)


@example(pb.TimestepColumns(handles=[1]))
@given(fields_of(pb.TimestepColumns).filter(lambda message: message.handles))
def test_any_message_is_refused_or_what_it_says(message: pb.TimestepColumns) -> None:
    for at, one in enumerate(decoded_together(message)):
        if isinstance(one, InvalidInput):
            assert one.fields
        else:
            assert decoded(row(message, at)) == one


def test_the_last_step_may_be_the_largest_and_no_larger() -> None:
    model = spec(inputs=(InputSpec("x", I64, ()),))
    steps = [MAX_STEP - 2, MAX_STEP - 1, 1]
    x = np.zeros((3, 2), np.int64)
    told = decode_columns(columns([1, 2, 3], steps, x, timesteps=2), model, MAX_TIMESTEPS, RECEIVED)
    assert [isinstance(each, Timestep) for each in told] == [True, False, True]
    assert isinstance(told[1], InvalidInput)
    assert told[1].fields[0][0] == "step"


# ---- replies


def reply(encoder: OutputsEncoder, step: int, timesteps: int = 0, **fields: bool) -> Reply:
    rows = [
        (np.array([step, at], F32).tobytes(), np.array(step * at, I64).tobytes(), bytes(12))
        for at in range(max(1, timesteps))
    ]
    return Reply(step, bytes([step]) * 16, 7, step - 1, timesteps, encoder(timesteps, rows), **fields)


@pytest.mark.parametrize("names", [("y", "n"), ("n", "g"), ("g",)])
@pytest.mark.parametrize("timesteps", [0, 1, 3])
def test_columns_of_replies_have_what_each_reply_has(names: tuple[str, ...], timesteps: int) -> None:
    encoder = OutputsEncoder(MODEL, names)
    replies = [reply(encoder, step, timesteps, replayed=step == 2, degraded=step == 3) for step in (1, 2, 3)]
    apart = taken_apart(encode_columns(encoder, timesteps, [11, 12, 13], replies))
    assert [handle for handle, _ in apart] == [11, 12, 13]
    for (_, told), whole in zip(apart, replies, strict=True):
        outputs = tensor_pb2.Outputs.FromString(whole.outputs)
        for tensor in outputs.tensors:
            tensor.name = ""
        assert told.outputs == outputs
        assert (told.step, told.h, told.epoch, told.durable_step) == whole[:4]
        assert (told.replayed, told.degraded, told.timesteps) == (whole.replayed, whole.degraded, timesteps)


def test_stored_outputs_of_another_release_are_made_again_and_those_of_another_model_are_not() -> None:
    encoder = OutputsEncoder(MODEL, ("y", "n"))
    made = reply(encoder, 5).outputs
    other = tensor_pb2.Outputs.FromString(made)
    other.tensors[0].name = "as it was called before"
    assert encoder.again(0, other.SerializeToString()) == made
    del other.tensors[1]
    for raw in (other.SerializeToString(), b"\xff", b""):
        with pytest.raises(StateCorrupt):
            encoder.again(0, raw)
    with pytest.raises(StateCorrupt):
        encoder.again(2, made)


# ---- the order of answers

ENCODER = OutputsEncoder(MODEL, ("y",))
GAP = StepGap("step: expected 1")


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["opened", 0, 2, "refused", "closed"])), max_size=30))
async def test_answers_of_a_handle_are_read_in_the_order_in_which_they_were_given(
    given_: list[tuple[int, str | int]],
) -> None:
    answers, recipients, numbers = Answers(1 << 14), {n: Recipient(n) for n in (1, 2, 3)}, count(1)
    expected: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for handle, kind in given_:
        step = next(numbers)
        expected[handle].append(step)
        to = recipients[handle]
        match kind:
            case "opened":
                answers.opened(to, pb.Opened(step=step))
            case "refused":
                answers.refused(to, step, GAP)
            case "closed":
                answers.closed(to, step)
            case int():
                answers.reply(to, (ENCODER, kind), reply(ENCODER, step, kind), 1.0)
    assert bool(answers) == bool(given_)
    read: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for raw in answers.take():
        message = pb.StreamManyResponse.FromString(raw)
        for opened in message.opened:
            read[opened.handle].append(opened.opened.step)
        for replies in message.replies:
            for handle, told in taken_apart(replies):
                read[handle].append(told.step)
        for refused in message.refused:
            read[refused.handle].append(refused.step)
        for closed in message.closed:
            read[closed.handle].append(closed.closed.step)
    assert read == expected
    assert not answers


async def test_a_message_has_about_so_many_bytes_and_then_there_is_no_room() -> None:
    answers, to = Answers(200), Recipient(1)
    await answers.room()
    for step in range(1, 21):
        answers.reply(to, (ENCODER, 0), reply(ENCODER, step))
    waiting = asyncio.ensure_future(answers.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    messages = [pb.StreamManyResponse.FromString(raw) for raw in answers.take()]
    assert [step for message in messages for step in message.replies[0].steps] == list(range(1, 21))
    assert all(len(message.replies[0].steps) < 20 for message in messages)
    await waiting


# ---- handles


def is_new(used: UsedHandles, handle: int) -> bool:
    try:
        used.add(handle)
    except AlreadyOpen:
        return False
    return True


@given(st.lists(st.integers(0, 12), max_size=40))
def test_a_handle_is_new_once(handles: list[int]) -> None:
    used, known = UsedHandles(), set[int]()
    for handle in handles:
        assert is_new(used, handle) == (handle not in known)
        known.add(handle)
        assert len(used) == len(known)


def test_of_handles_that_count_up_only_the_last_is_kept_and_of_others_so_many() -> None:
    used = UsedHandles()
    for handle in range(7, 100_007):
        used.add(handle)
    assert not used._others
    for handle in range(MAX_OTHERS):
        used.add(200_000 + 2 * handle)
    with pytest.raises(InvalidInput):
        used.add(1)
    assert not is_new(used, 8)
