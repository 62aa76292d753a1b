"""What a shared stream packs, against what was written to it."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwire.columns import Written, pack, unpack
from cellwire.tensors import encode
from cellwire.v1 import cell_service_pb2 as pb
from tests.cellwire.fake import rows
from tests.many import column

MAX_BYTES = 2000


def written(handle: int, step: int, timesteps: int, priority: int = 0, model: str = "m") -> Written:
    x = np.full((timesteps, 2) if timesteps else (2,), step, np.float32)
    timestep = pb.Timestep(step=9999, timesteps=timesteps, priority=priority, inputs=[encode(x, "x")])
    return Written(handle, pb.StreamRequest(timestep=timestep), step, (model, "1"), ("x",))


messages = st.builds(
    written,
    handle=st.integers(1, 4),
    step=st.integers(1, 1000),
    timesteps=st.integers(0, 3),
    priority=st.integers(0, 1),
    model=st.sampled_from("mn"),
)


@given(st.lists(messages, max_size=60))
def test_every_row_is_there_once_and_in_the_order_of_its_handle(given_: list[Written]) -> None:
    packed = list(pack(given_, MAX_BYTES))
    assert all(message.ByteSize() <= MAX_BYTES for message in packed)
    there: dict[int, list[pb.Timestep]] = defaultdict(list)
    for message in packed:
        for columns in message.timesteps:
            assert len(set(columns.handles)) == len(columns.handles)
            for handle, timestep in rows(columns):
                timestep.priority = columns.priority
                there[handle].append(timestep)
    for handle in range(1, 5):
        expected = []
        for one in (each for each in given_ if each.handle == handle):
            timestep = pb.Timestep()
            timestep.CopyFrom(one.request.timestep)
            timestep.step = one.step
            timestep.inputs[0].name = ""
            expected.append(timestep)
        assert there[handle] == expected


def test_what_is_alike_shares_columns_and_what_is_too_long_is_sent_alone() -> None:
    alike = [written(handle, 1, 0) for handle in range(1, 9)]
    long = [written(9, 1, 500), written(10, 1, 500)]
    first, *others = pack([*alike, *long], MAX_BYTES)
    (columns,) = first.timesteps
    assert list(columns.handles) == list(range(1, 9))
    assert columns.inputs[0].shape == [8, 2]
    assert [list(other.timesteps[0].handles) for other in others] == [[9], [10]]
    assert not list(pack([], MAX_BYTES))


@pytest.mark.parametrize(
    ("names", "sent"),
    [(["", ""], [1, 2]), (["b", "a"], [2, 1]), (["a", "c"], []), (["a", "a"], []), (["a"], []), (["a", ""], [])],
)
def test_inputs_travel_in_the_order_of_the_model_or_not_at_all(names: list[str], sent: list[int]) -> None:
    inputs = [encode(np.array([at]), name) for at, name in enumerate(names, 1)]
    request = pb.StreamRequest(timestep=pb.Timestep(step=1, inputs=inputs))
    (message,) = pack([Written(1, request, 1, ("m", "1"), ("a", "b"))], MAX_BYTES)
    (columns,) = message.timesteps
    assert [int(np.frombuffer(each.data, np.int64)[0]) for each in columns.inputs] == sent


def replies() -> pb.ReplyColumns:
    outputs = [column(np.arange(4, dtype=np.float32).reshape(2, 2)), column(np.array([7, 8]))]
    return pb.ReplyColumns(
        handles=[3, 4], steps=[5, 6], h=bytes(range(32)), epochs=[1, 2], durable_steps=[5, 5], outputs=outputs
    )


def test_replies_are_taken_apart() -> None:
    (three, first), (four, second) = unpack(replies())
    assert (three, four) == (3, 4)
    assert (first.step, first.epoch, first.durable_step, first.replayed) == (5, 1, 5, False)
    assert (second.step, second.h) == (6, bytes(range(16, 32)))
    assert [list(each.shape) for each in second.outputs.tensors] == [[2], []]
    assert second.outputs.tensors[0].data == np.array([2, 3], np.float32).tobytes()
    assert not list(unpack(pb.ReplyColumns()))
    assert not list(unpack(pb.ReplyColumns(outputs=[column(np.zeros((0, 2)))])))


@pytest.mark.parametrize("field", ["steps", "h", "epochs", "durable_steps", "replayed", "outputs"])
def test_replies_that_do_not_fit_their_handles_are_refused(field: str) -> None:
    broken = replies()
    match field:
        case "h":
            broken.h = bytes(31)
        case "replayed":
            broken.replayed.append(True)
        case "outputs":
            broken.outputs[0].shape[0] = 3
        case _:
            getattr(broken, field).append(1)
    with pytest.raises(ValueError):
        list(unpack(broken))
