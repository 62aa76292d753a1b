"""Many sessions on one stream: each answered as on a stream of its own, and failing by itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import REGISTRY

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import resume_pb2
from models import cells
from models.cells import checked
from service.errors import Draining
from service.many import MAX_OPENS
from service.server import Server
from tests.harness import Place, WireStream, number, replica, small_models, tensor
from tests.hostile import good, seen, write_models, writes_held
from tests.many import RawMany, WireMany, column, columns, numbers, output, why
from tests.waiting import eventually, until
from tests.zoo import write

TOKEN = b"t" * 16


@pytest.fixture(scope="module")
def test_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small models, a GRU with gates, and those of the tests of bad input."""
    root = small_models(tmp_path_factory.mktemp("many"))
    write(root, cells.build(cells.draw("gru", 4, 16, outputs=2, seed=3)), name="gru")
    write_models(root)
    return root


def seen_of(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, labels) or 0.0


def answers_of(replies: list[pb.Reply]) -> list[int]:
    """What `checker` answered."""
    return [int(output(reply)[-1]) for reply in replies]


# ---- answers


async def test_each_session_of_a_message_is_answered_with_its_own_state(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    handles = range(1, 101)
    opened = await many.open({handle: f"s{handle}" for handle in handles})
    assert all(told.created and told.step == 0 for told in opened.values())
    before = seen_of("cellwire_step_seconds_count")
    inputs = np.random.default_rng(1).integers(0, 10_000, (5, 100))
    for step, row in enumerate(inputs, 1):
        replies = await many.step(handles, [step] * 100, numbers(*row))
        assert [reply.step for reply in replies] == [step] * 100
        assert answers_of(replies) == [checked([int(x) for x in column])[-1] for column in inputs[:step].T]
    assert seen_of("cellwire_step_seconds_count") - before == 500
    await many.close()


def frames(model: str, timesteps: int) -> list[list[np.ndarray]]:
    """The inputs of three messages, each input with a leading axis T unless there is none."""
    random = np.random.default_rng(timesteps)
    leading = (timesteps,) if timesteps else ()
    if model == "mixed":
        return [
            [
                random.standard_normal((*leading, 2, 3)).astype(np.float32),
                random.integers(0, 10, (*leading, 1)),
                random.integers(0, 2, (*leading, 2)).astype(np.bool_),
            ]
            for _ in range(3)
        ]
    return [[random.standard_normal((*leading, 4)).astype(np.float32)] for _ in range(3)]


@pytest.mark.parametrize("timesteps", [0, 1, 3])
@pytest.mark.parametrize("model", ["lstm", "gru", "mixed"])
async def test_replies_are_those_of_a_stream_of_one_session_bit_by_bit(
    channel: grpc.aio.Channel, model: str, timesteps: int
) -> None:
    one, many = WireStream(channel), WireMany(channel)
    await one.open("one", model, create_token=TOKEN)
    opened = await many.open({7: "many"}, model, create_token=TOKEN)
    step = 1
    for inputs in frames(model, timesteps):
        alone = await one.replied(step, *inputs, timesteps=timesteps)
        (reply,) = await many.step([7], [step], *(x[None] for x in inputs), timesteps=timesteps)
        names = [each.name for each in alone.outputs.tensors]
        assert names == list(opened[7].outputs)
        for each in alone.outputs.tensors:
            each.name = ""
        assert reply.epoch == opened[7].epoch
        reply.epoch = alone.epoch
        assert reply == alone
        step += max(1, timesteps)
    await one.close()
    await many.close()


async def test_sessions_in_one_batch_are_answered_as_if_alone(channel: grpc.aio.Channel) -> None:
    one, many = WireStream(channel), WireMany(channel)
    await one.open("one", "lstm")
    await many.open({handle: f"s{handle}" for handle in range(1, 71)}, "lstm")
    random = np.random.default_rng(5)
    for step in range(1, 6):
        inputs = random.standard_normal((70, 4)).astype(np.float32)
        replies = await many.step(range(1, 71), [step] * 70, inputs)
        alone = await one.replied(step, inputs[3])
        expected = np.frombuffer(alone.outputs.tensors[0].data, np.float32)
        np.testing.assert_allclose(output(replies[3]), expected, rtol=0, atol=1e-6)
        assert len({reply.outputs.tensors[0].data for reply in replies}) == 70


async def test_what_is_ready_together_is_sent_together(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    await many.open({handle: f"s{handle}" for handle in range(1, 65)})
    await many.step(range(1, 65), [1] * 64, numbers(*range(64)))
    before = len(many.messages)
    await many.step(range(1, 65), [2] * 64, numbers(*range(64)))
    assert len(many.messages) == before + 1
    assert len(many.messages[-1].replies) == 1


async def test_two_models_share_a_stream_and_a_message(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    await many.open({1: "a", 2: "b"})
    await many.open({3: "c", 4: "d"}, "lstm")
    x = np.ones((2, 4), np.float32)
    for step in (1, 2):
        both = [columns([1, 2], [step] * 2, numbers(3, 4)), columns([4, 3], [step] * 2, x)]
        await many.send(timesteps=both)
    await many.until(dict.fromkeys((1, 2, 3, 4), 3))
    assert answers_of(many.answers[1][1:]) == checked([3, 3])
    assert answers_of(many.answers[2][1:]) == checked([4, 4])
    assert [output(reply).shape for reply in many.answers[3][1:]] == [(2,), (2,)]
    await many.send(timesteps=[columns([1, 3], [3, 3], numbers(3, 4))])
    await many.until({1: 4, 3: 4})
    assert [why(many.answers[handle][-1]).fields for handle in (1, 3)] == [("timesteps.handles",)] * 2


async def test_answers_of_a_handle_keep_their_order_whatever_their_kind(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    await many.open({1: "s"})
    x = np.arange(3).reshape(1, 3, 1)
    await many.send(
        timesteps=[
            columns([1], [1], numbers(5)),
            columns([1], [2], x, timesteps=3),
            columns([1], [9], numbers(5)),
            columns([1], [5], numbers(6)),
            columns([1], [1], numbers(5)),
        ],
        closes=[pb.HandleClose(handle=1, close=pb.Close(step=5))],
    )
    await many.until({1: 7})
    kinds = [type(answer).__name__ for answer in many.answers[1]]
    assert kinds == ["Opened", "Reply", "Reply", "HandleRefused", "Reply", "Reply", "Closed"]
    assert [answer.step for answer in many.answers[1]] == [0, 1, 4, 9, 5, 1, 5]
    assert many.answers[1][5].replayed


async def test_options_of_an_open_hold_for_its_handle(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    bias = tensor(np.array([0.25], np.float32), "bias")
    await many.open({1: "with"}, "tuned", constants=[bias])
    await many.open({2: "without"}, "tuned", constants=[tensor(np.array([0.0], np.float32), "bias")])
    replies = await many.step([1, 2], [1, 1], np.array([[0.5], [0.5]], np.float32))
    np.testing.assert_allclose([output(reply)[0] for reply in replies], np.tanh([0.75, 0.5]), atol=1e-6)
    told = await many.open({3: "unnumbered"}, unnumbered=True, write_mode=pb.WRITE_MODE_WRITE_BEHIND, metadata=True)
    assert [spec.name for spec in told[3].input_specs] == ["x"]
    for step in (1, 2):
        (reply,) = await many.step([3], [0], numbers(4))
        assert (reply.step, reply.durable_step < step) == (step, True)
    (refused,) = await many.step([3], [3], numbers(4))
    assert why(refused).fields == ("step",)


async def test_the_gates_of_a_cell_are_sent_where_they_are_asked_for(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    told = await many.open({1: "a"}, "gru", gates=True, outputs=["y"])
    plain = await many.open({2: "b"}, "gru")
    replies = await many.step([1, 2], [1, 1], np.ones((2, 4), np.float32))
    for handle, opened, reply in ((1, told[1], replies[0]), (2, plain[2], replies[1])):
        assert len(reply.outputs.tensors) == len(opened.outputs), handle


# ---- the protocol of one session


async def test_each_handle_has_the_protocol_of_a_session(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    await many.open({handle: f"s{handle}" for handle in range(1, 7)})
    first = await many.step(range(1, 7), [1] * 6, numbers(*range(6)))
    answers = await many.step(range(1, 7), [1, 1, 3, 0, 2, 2**53], numbers(0, 99, 2, 3, 4, 5))
    assert answers[0].replayed
    answers[0].replayed = False
    assert answers[0] == first[0]
    told = [why(answer) for answer in (answers[1], answers[2], answers[3], answers[5])]
    assert [each.reason for each in told] == ["STEP_CONFLICT", "STEP_GAP", "INVALID_INPUT", "INVALID_INPUT"]
    assert [each.fields for each in told[2:]] == [("step",), ("step",)]
    assert answers_of([answers[4]]) == [checked([4, 4])[-1]]
    assert not any(answer.ended for answer in (answers[1], answers[2], answers[3], answers[5]))
    assert [answer.step for answer in answers] == [1, 1, 3, 0, 2, 2**53]
    second = await many.step(range(1, 7), [2] * 6, numbers(0, 1, 2, 3, 4, 5))
    assert [reply.replayed for reply in second] == [False, False, False, False, True, False]


async def test_stored_replies_come_first_where_they_are_asked_for(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    opened = await many.open({1: "s"}, create_token=TOKEN)
    sent = [(await many.step([1], [step], numbers(step)))[0] for step in (1, 2, 3)]
    point = resume_pb2.ResumePoint(received=resume_pb2.Checkpoint(step=1, h=sent[0].h))
    resumed = pb.Open(
        session_id="s",
        create_token=TOKEN,
        mode=pb.OPEN_MODE_RESUME,
        found_epoch=opened[1].epoch,
        resume_point=point,
        replies_after=1,
    )
    await many.send(opens=[pb.HandleOpen(handle=2, open=resumed)])
    await many.until({2: 3})
    stored = many.answers[2][1:]
    assert [(reply.step, reply.replayed) for reply in stored] == [(2, True), (3, True)]
    assert [reply.outputs for reply in stored] == [reply.outputs for reply in sent[1:]]


async def test_an_open_that_is_refused_ends_its_handle_and_no_other(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    opens = [
        pb.HandleOpen(handle=1, open=pb.Open(session_id="a", model="checker")),
        pb.HandleOpen(handle=2, open=pb.Open(session_id="b", model="nothing")),
        pb.HandleOpen(handle=3, open=pb.Open(session_id="no such {id}", model="checker")),
        pb.HandleOpen(handle=4, open=pb.Open(session_id="c", mode=pb.OPEN_MODE_RESUME)),
        pb.HandleOpen(handle=5),
    ]
    await many.send(opens=opens)
    await many.until(dict.fromkeys(range(1, 6), 1))
    refused = [many.answers[handle][0] for handle in (2, 3, 4, 5)]
    reasons = ["MODEL_UNKNOWN", "INVALID_INPUT", "SESSION_UNKNOWN", "INVALID_INPUT"]
    assert [why(each).reason for each in refused] == reasons
    assert all(each.ended for each in refused)
    answers = await many.step([1, 2], [1, 1], numbers(3, 4))
    assert answers_of(answers[:1]) == checked([3])
    assert (why(answers[1]).reason, answers[1].ended) == ("OPEN_EXPECTED", True)


async def test_a_handle_is_used_once(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    await many.open({handle: f"s{handle}" for handle in (5, 6, 9, 7)})
    await many.send(closes=[pb.HandleClose(handle=6, close=pb.Close())])
    await many.until({6: 2})
    for handle, gone in ((6, True), (9, False), (5, False)):
        await many.send(opens=[pb.HandleOpen(handle=handle, open=pb.Open(session_id="t", model="checker"))])
        refused = await many.answer(handle)
        assert (why(refused).reason, refused.ended) == ("ALREADY_OPEN", gone)
    await many.open({4: "s4", 8: "s8"})
    assert answers_of(await many.step([5, 9], [1, 1], numbers(1, 2))) == [checked([1])[0], checked([2])[0]]


async def test_what_comes_before_its_handle_is_open_is_refused(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    await many.send(
        opens=[pb.HandleOpen(handle=1, open=pb.Open(session_id="s", model="checker"))],
        timesteps=[columns([1, 2], [1, 1], numbers(1, 1))],
        closes=[pb.HandleClose(handle=2, close=pb.Close())],
    )
    await many.until({1: 2, 2: 2})
    early = many.answers[1][0]
    assert (why(early).reason, early.ended) == ("OPEN_EXPECTED", False)
    assert [why(answer).reason for answer in many.answers[2]] == ["OPEN_EXPECTED"] * 2
    assert all(answer.ended for answer in many.answers[2])
    assert answers_of(await many.step([1], [1], numbers(1))) == checked([1])


# ---- closes


async def test_sessions_are_closed_or_kept_each_by_itself(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    opened = await many.open({handle: f"s{handle}" for handle in range(1, 5)}, create_token=TOKEN)
    await many.step(range(1, 5), [1] * 4, numbers(1, 2, 3, 4))
    closes = [
        pb.HandleClose(handle=1, close=pb.Close(step=1)),
        pb.HandleClose(handle=2, close=pb.Close(step=1, keep=True)),
        pb.HandleClose(handle=3, close=pb.Close(step=7)),
        pb.HandleClose(handle=4),
    ]
    await many.send(closes=closes)
    await many.until(dict.fromkeys(range(1, 5), 3))
    assert [many.answers[handle][-1] for handle in (1, 2)] == [pb.Closed(step=1)] * 2
    assert [why(many.answers[handle][-1]).reason for handle in (3, 4)] == ["LAST_STEP_MISMATCH", "INVALID_INPUT"]
    assert [(await seen(channel, f"s{handle}")).closed for handle in range(1, 5)] == [True, False, False, False]
    answers = await many.step(range(1, 5), [2] * 4, numbers(1, 2, 3, 4))
    assert [why(answer).reason for answer in answers[:2]] == ["OPEN_EXPECTED"] * 2
    assert answers_of(answers[2:]) == [checked([3, 3])[-1], checked([4, 4])[-1]]
    again = await many.open({5: "s2"}, create_token=TOKEN, mode=pb.OPEN_MODE_RESUME, found_epoch=opened[2].epoch)
    assert (again[5].step, again[5].created) == (1, False)


async def test_a_session_that_an_operator_closed_ends_its_handle_and_may_be_closed(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    await many.open({1: "a", 2: "b"})
    kill = channel.unary_unary(
        "/cellwire.v1.SessionService/CloseSession", request_serializer=bytes, response_deserializer=bytes
    )
    for name in (b"a", b"b"):
        await kill(b"\x0a\x01" + name)
    (answer,) = await many.step([1], [1], numbers(1))
    assert (why(answer).reason, answer.ended) == ("SESSION_CLOSED", True)
    await many.send(closes=[pb.HandleClose(handle=2, close=pb.Close())])
    assert await many.answer(2) == pb.Closed()


async def test_a_message_may_open_more_sessions_than_are_claimed_at_once(
    channel: grpc.aio.Channel, server: Server
) -> None:
    many = WireMany(channel)
    count = MAX_OPENS + 200
    opens = [pb.HandleOpen(handle=at, open=pb.Open(session_id=f"s{at}", model="checker")) for at in range(count)]
    closes = [pb.HandleClose(handle=at, close=pb.Close(keep=True)) for at in range(count)]
    await many.send(opens=opens, closes=closes)
    await many.until(dict.fromkeys(range(count), 2))
    assert all([type(each) for each in answers] == [pb.Opened, pb.Closed] for answers in many.answers.values())
    assert not server.sessions.live


# ---- bad input


async def test_numbers_that_a_model_does_not_take_are_refused_row_by_row(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    await many.open({handle: f"s{handle}" for handle in range(1, 5)}, "mixed")
    x = np.zeros((4, 2, 3), np.float32)
    x[0, 1, 2] = np.inf
    index = np.array([[1], [10], [2], [3]])
    mask = np.zeros((4, 2), np.bool_).view(np.uint8)
    mask[2, 0] = 2
    inputs = [column(x), column(index), column(mask)]
    inputs[2].dtype = column(np.zeros(1, np.bool_)).dtype
    await many.send(timesteps=[pb.TimestepColumns(handles=[1, 2, 3, 4], steps=[1] * 4, inputs=inputs)])
    await many.until(dict.fromkeys(range(1, 5), 2))
    told = [why(many.answers[handle][-1]) for handle in (1, 2, 3)]
    assert [each.fields for each in told] == [("inputs.x.data",), ("inputs.index.data",), ("inputs.mask.data",)]
    assert isinstance(many.answers[4][-1], pb.Reply)
    assert [(await seen(channel, f"s{handle}")).step for handle in range(1, 5)] == [0, 0, 0, 1]


async def test_a_timestep_whose_outputs_are_not_finite_fails_alone(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    await many.open({handle: f"s{handle}" for handle in range(1, 4)}, "wild")
    answers = await many.step([1, 2, 3], [1] * 3, np.array([[0, 0], [89, 0], [1, 1]], np.float32))
    assert [isinstance(answer, pb.Reply) for answer in answers] == [True, False, True]
    assert (why(answers[1]).reason, answers[1].ended) == ("NON_FINITE", False)


def _spoilt(**changes: Any) -> Any:
    message = columns([1, 2], [2, 2], numbers(3, 4))
    for name, value in changes.items():
        if name in ("timesteps", "priority"):
            setattr(message, name, value)
        elif name == "timeout":
            message.timeout.CopyFrom(value)
        else:
            message.ClearField(name)
            getattr(message, name).extend(value)
    return message


INT64 = column(numbers(1)).dtype
SPOILT = {
    "too few steps": ({"steps": [2]}, "steps"),
    "too many steps": ({"steps": [2, 2, 2]}, "steps"),
    "no inputs": ({"inputs": []}, "inputs"),
    "two inputs": ({"inputs": [column(numbers(3, 4))] * 2}, "inputs"),
    "another dtype": ({"inputs": [column(numbers(3, 4).astype(np.float32))]}, "inputs.x.dtype"),
    "an unknown dtype": ({"inputs": [pb.Column(dtype=99, shape=[2, 1], data=bytes(16))]}, "inputs.x.dtype"),  # type: ignore[arg-type]
    "one row": ({"inputs": [column(numbers(3))]}, "inputs.x.shape"),
    "a flat column": ({"inputs": [column(np.array([3, 4]))]}, "inputs.x.shape"),
    "a negative axis": ({"inputs": [pb.Column(dtype=INT64, shape=[-2, -1])]}, "inputs.x.shape"),
    "too few bytes": (
        {"inputs": [pb.Column(dtype=INT64, shape=[2, 1], data=b"1")]},
        "inputs.x.data",
    ),
    "an axis of time that is not there": ({"timesteps": 1}, "inputs.x.shape"),
    "too many timesteps": ({"timesteps": 65}, "timesteps"),
    "no time": ({"timeout": Duration()}, "timeout"),
    "time before": ({"timeout": Duration(seconds=-1)}, "timeout"),
}


@pytest.mark.parametrize(("changes", "field"), SPOILT.values(), ids=SPOILT)
async def test_columns_that_do_not_fit_are_refused_to_each_handle(
    channel: grpc.aio.Channel, changes: dict[str, Any], field: str
) -> None:
    many = WireMany(channel)
    await many.open({1: "a", 2: "b", 3: "c"})
    await many.step([1, 2, 3], [1] * 3, numbers(1, 2, 3))
    before = seen_of("cellwire_refused_total", reason="INVALID_INPUT")
    await many.send(timesteps=[_spoilt(**changes), columns([3], [2], numbers(5))])
    await many.until({1: 3, 2: 3, 3: 3})
    for handle in (1, 2):
        refused = many.answers[handle][-1]
        assert (why(refused).reason, why(refused).fields, refused.ended) == ("INVALID_INPUT", (field,), False)
    assert seen_of("cellwire_refused_total", reason="INVALID_INPUT") == before + 2
    assert answers_of(many.answers[3][1:]) == checked([3, 5])
    replies = await many.step([1, 2], [2, 2], numbers(3, 4))
    assert answers_of(replies) == [checked([1, 3])[-1], checked([2, 4])[-1]]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"\xff", "message"),
        (pb.StreamManyRequest(timesteps=[pb.TimestepColumns()]).SerializeToString(), "timesteps"),
        (pb.StreamManyRequest(timesteps=[pb.TimestepColumns(handles=[1] * 500_000)]).SerializeToString(), "timesteps"),
    ],
    ids=["no message", "no handle", "more handles than there were"],
)
async def test_a_message_that_names_no_handle_ends_the_stream(
    channel: grpc.aio.Channel, server: Server, raw: bytes, field: str
) -> None:
    many = RawMany(channel)
    await many.open({1: "a"})
    await many.call.write(raw)
    told = await many.ended()
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    assert told.fields[0].startswith(field)
    assert many.messages[-1].HasField("notice")
    await until(lambda: not server.sessions.live, "the session is left")


async def test_an_empty_message_asks_for_nothing(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    await many.send()
    await many.open({1: "a"})
    assert answers_of(await many.step([1], [1], numbers(5))) == checked([5])
    await many.close()
    assert len(many.messages) == 2


async def test_the_good_steps_of_a_hostile_repository_pass_as_columns(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    for handle, model in enumerate(("mixed", "loose", "wild", "wide", "smooth"), 1):
        await many.open({handle: model}, model)
        for step in (1, 2):
            inputs = [
                pb.Column(dtype=each.dtype, shape=[1, *each.shape], data=each.data) for each in good(model, step).inputs
            ]
            await many.send(timesteps=[pb.TimestepColumns(handles=[handle], steps=[step], inputs=inputs)])
        await many.until({handle: 3})
        assert [reply.step for reply in many.answers[handle][1:]] == [1, 2]


# ---- the window


async def test_a_handle_over_its_window_is_refused_and_holds_nobody_up(place: Place) -> None:
    async with replica(place, window=3) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        many = WireMany(channel)
        opened = await many.open({1: "a", 2: "b"})
        assert opened[1].window == 3
        async with writes_held(place.store_url) as waiting:
            await many.send(timesteps=[columns([1] * 3, [1, 2, 3], numbers(1, 2, 3))])
            await eventually(waiting, "a commit waits")
            await many.send(timesteps=[columns([1, 2], [4, 1], numbers(4, 9))])
            refused = await many.answer(1)
            assert (why(refused).code, why(refused).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WINDOW_EXCEEDED")
            assert (refused.step, refused.ended) == (4, False)
            assert why(refused).retry_seconds is not None
        await many.until({1: 5, 2: 2})
        assert answers_of(many.answers[1][2:]) == checked([1, 2, 3])
        assert answers_of(many.answers[2][1:]) == checked([9])
        assert answers_of(await many.step([1], [4], numbers(4))) == checked([1, 2, 3, 4])[-1:]


async def test_a_handle_with_a_full_window_can_be_closed(place: Place) -> None:
    async with replica(place, window=2) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        many = WireMany(channel)
        await many.open({1: "a"})
        async with writes_held(place.store_url) as waiting:
            closes = [pb.HandleClose(handle=1, close=pb.Close(step=2))]
            await many.send(timesteps=[columns([1] * 2, [1, 2], numbers(1, 2))], closes=closes)
            await eventually(waiting, "a commit waits")
        await many.until({1: 4})
        assert many.answers[1][3] == pb.Closed(step=2)


# ---- other owners, the end


@asynccontextmanager
async def another(place: Place) -> AsyncIterator[grpc.aio.Channel]:
    async with replica(place) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


async def test_a_handle_whose_session_another_stream_takes_is_ended_alone(
    place: Place, channel: grpc.aio.Channel
) -> None:
    many = WireMany(channel)
    opened = await many.open({1: "a", 2: "b", 3: "c"}, create_token=TOKEN)
    await many.step([1, 2, 3], [1] * 3, numbers(1, 2, 3))
    async with another(place) as elsewhere:
        rival = WireStream(elsewhere)
        await rival.open("b", create_token=TOKEN, found_epoch=opened[2].epoch)
        answers = await many.step([1, 2, 3], [2] * 3, numbers(1, 2, 3))
        assert (why(answers[1]).reason, why(answers[1]).code) == ("SUPERSEDED", grpc.StatusCode.ABORTED)
        assert (answers[1].ended, answers[1].step) == (True, 2)
        assert answers_of([answers[0], answers[2]]) == [checked([1, 1])[-1], checked([3, 3])[-1]]
        assert (await rival.replied(2, number(7))).step == 2
        assert isinstance((await many.step([1], [3], numbers(1)))[0], pb.Reply)


async def test_two_handles_for_one_session_are_rivals(channel: grpc.aio.Channel) -> None:
    many = WireMany(channel)
    opened = await many.open({1: "s"}, create_token=TOKEN)
    await many.open({2: "s"}, create_token=TOKEN, found_epoch=opened[1].epoch)
    await many.until({1: 2})
    refused = many.answers[1][-1]
    assert (why(refused).reason, refused.ended) == ("SUPERSEDED", True)
    assert answers_of(await many.step([2], [1], numbers(4))) == checked([4])


async def test_a_stream_of_many_leaves_all_its_sessions_when_it_ends(channel: grpc.aio.Channel, server: Server) -> None:
    for way in ("close", "cancel"):
        many = WireMany(channel)
        names = {handle: f"{way}{handle}" for handle in range(1, 21)}
        opened = await many.open(names)
        assert len(server.sessions.live) == 20
        await many.step(range(1, 21), [1] * 20, numbers(*range(20)))
        if way == "close":
            await many.close()
        else:
            many.call.cancel()
        await until(lambda: not server.servicer.streams and not server.sessions.live, "all are left")
        await server.sessions.settled()
        newer = WireMany(channel)  # by their ids alone, which a lease that is still held would refuse
        for handle, name in names.items():
            epoch = opened[handle].epoch
            await newer.open({handle: name}, mode=pb.OPEN_MODE_RESUME, found_epoch=epoch)
        await newer.close()
        await until(lambda: not server.sessions.live, "all are left again")


async def test_a_drain_answers_what_is_in_hand_and_hands_all_sessions_over(
    place: Place, server: Server, channel: grpc.aio.Channel
) -> None:
    many = WireMany(channel)
    opened = await many.open({1: "busy", 2: "idle"}, create_token=TOKEN)
    async with writes_held(place.store_url) as waiting:
        await many.send(timesteps=[columns([1, 1], [1, 2], numbers(5, 6))])
        await eventually(waiting, "a commit waits")
        server.sessions.draining = True
        (stream,) = server.servicer.streams
        stream.end(Draining("this replica is going", retry_after=0.0))
    assert (await many.ended()).reason == "DRAINING"
    assert many.messages[-1].HasField("notice")
    assert answers_of(many.answers[1][1:]) == checked([5])
    assert not server.sessions.live
    await server.sessions.settled()
    async with another(place) as elsewhere:
        newer = WireMany(elsewhere)
        for handle, step in ((1, 1), (2, 0)):
            name = {1: "busy", 2: "idle"}[handle]
            again = await newer.open({handle: name}, mode=pb.OPEN_MODE_RESUME, found_epoch=opened[handle].epoch)
            assert again[handle].step == step


@pytest.mark.parametrize("cap", ["max_streams", "max_sessions"])
async def test_streams_and_handles_are_capped(place: Place, cap: str) -> None:
    async with (
        replica(place, **{cap: 1}) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        many = WireMany(channel)
        await many.open({1: "a"})
        if cap == "max_streams":
            assert (await WireMany(channel).ended()).reason == "QUOTA"
            return
        await many.send(opens=[pb.HandleOpen(handle=2, open=pb.Open(session_id="b", model="checker"))])
        refused = await many.answer(2)
        assert (why(refused).reason, refused.ended) == ("QUOTA", True)
        await many.send(closes=[pb.HandleClose(handle=1, close=pb.Close())])
        await many.answer(1)
        await many.open({3: "b"})


async def test_a_store_that_goes_ends_the_handles_that_write_and_not_the_stream(place: Place) -> None:
    settings = {"store_timeout": 0.1, "commit_deadline": 0.3}
    async with replica(place, **settings) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        many = WireMany(channel)
        opened = await many.open({1: "a", 2: "b"}, create_token=TOKEN)
        async with writes_held(place.store_url):
            (refused,) = await many.step([1], [1], numbers(1))
        assert (why(refused).reason, refused.ended) == ("STORE_UNAVAILABLE", True)
        assert answers_of(await many.step([2], [1], numbers(2))) == checked([2])
        epoch = opened[1].epoch
        again = await many.open({3: "a"}, create_token=TOKEN, mode=pb.OPEN_MODE_RESUME, found_epoch=epoch)
        (reply,) = await many.step([3], [1], numbers(1))
        assert (answers_of([reply]), reply.replayed) == (checked([1]), again[3].step == 1)
