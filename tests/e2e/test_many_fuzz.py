"""Hostile bytes on a stream of many sessions: what is refused has changed nothing, and the others go on."""

import asyncio
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwire.cli.children import Children
from cellwire.v1 import cell_service_pb2 as pb
from models.cells import checked
from service.errors import CellwireError
from tests.harness import Place, ReplicaProcess, fault
from tests.hostile import seen
from tests.many import RawMany, WireMany, columns, numbers, output
from tests.messages import fields_of, mutations

REASONS = {kind.reason for kind in CellwireError.__subclasses__()} - {"INTERNAL"}
"""The closed list, less the one that stands for what nobody foresaw."""
T = TypeVar("T")


@dataclass
class Scene:
    """One replica for all examples, and the loop that its channel belongs to."""

    runner: asyncio.Runner
    replica: ReplicaProcess
    channel: grpc.aio.Channel

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """One example; the replica has outlived it."""
        result = self.runner.run(work)
        assert self.replica.child.poll() is None
        return result


@pytest.fixture(scope="module")
def scene(store_url: str, test_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    place = Place(store_url, f"t{uuid.uuid4().hex[:12]}", (test_models,))
    with Children() as children, asyncio.Runner() as runner:
        replica = ReplicaProcess(children, place, tmp_path_factory.mktemp("many-fuzz"), "replica")
        target = replica.target()

        async def connect() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(target)

        channel = runner.run(connect())
        yield Scene(runner, replica, channel)
        runner.run(channel.close())
        assert "internal_error" not in replica.log.read_text()


def serialized(**fields: Any) -> bytes:
    raw: bytes = pb.StreamManyRequest(**fields).SerializeToString()
    return raw


hostile: st.SearchStrategy[bytes] = st.one_of(
    mutations(serialized(timesteps=[columns([1, 2], [2, 2], numbers(5, 6))])),
    mutations(serialized(timesteps=[columns([2], [2], numbers(5, 6).reshape(1, 2, 1), timesteps=2)])),
    mutations(serialized(closes=[pb.HandleClose(handle=1, close=pb.Close(step=1))])),
    mutations(serialized(opens=[pb.HandleOpen(handle=4, open=pb.Open(session_id="s", model="checker"))])),
    fields_of(pb.StreamManyRequest).map(lambda message: message.SerializeToString()),
    st.binary(max_size=80),
)


@given(st.lists(hostile, min_size=1, max_size=3))
def test_mutated_messages_are_refused_or_what_they_say(scene: Scene, messages: list[bytes]) -> None:
    scene.run(_ridden(scene, messages))


async def _ridden(scene: Scene, messages: list[bytes]) -> None:
    name = uuid.uuid4().hex
    many, neighbour = RawMany(scene.channel), WireMany(scene.channel)
    await many.open({1: f"{name}-1", 2: f"{name}-2", 3: f"{name}-3"})
    await neighbour.open({1: f"{name}-neighbour"})
    first = await many.step([1, 2, 3], [1] * 3, numbers(1, 2, 3))
    for raw in messages:
        await many.send_bytes(raw)
    ending = await many.end()
    if ending:
        assert ending.reason in REASONS
        assert many.messages[-1].HasField("notice")
    for handle, answers in many.answers.items():
        for refused in (answer for answer in answers if isinstance(answer, pb.HandleRefused)):
            told = fault(refused.status)
            assert told.reason in REASONS
            assert bool(told.fields) == (told.reason == "INVALID_INPUT"), told
        advanced = [answer for answer in answers if isinstance(answer, pb.Reply) and not answer.replayed]
        if handle in (1, 2, 3):
            now = await seen(scene.channel, f"{name}-{handle}")
            assert (now.step, now.h) == (advanced[-1].step, advanced[-1].h)
            assert advanced[0] == first[handle - 1]
    (reply,) = await neighbour.step([1], [1], numbers(9))
    assert int(output(reply)[0]) == checked([9])[0]
    await neighbour.close()
