"""Many sessions on shared streams, against real replicas that are killed, drained and stopped under them."""

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

import numpy as np
import pytest

from cellwire import errors
from cellwire.client import Client
from cellwire.many import Answer, Many
from cellwire.replies import Reply
from cellwire.resume import ResumePoint
from cellwire.tensors import Frame
from models.cells import checked
from service.server import Server
from tests.harness import ReplicaProcess, number
from tests.waiting import until

Replicas = dict[str, ReplicaProcess]
NAMES = [f"s{at}" for at in range(60)]
STEPS = 60


def inputs(name: str, steps: int = STEPS) -> list[int]:
    seed = int(name[1:])
    return [(31 * step + 1009 * seed) % 10007 for step in range(1, steps + 1)]


def right(name: str, steps: int = STEPS) -> list[tuple[int, int]]:
    """(step, output) of each reply."""
    return list(enumerate(checked(inputs(name, steps)), 1))


def told(answer: Answer) -> tuple[int, int]:
    assert isinstance(answer, Reply), answer
    return answer.step, int(answer.outputs["y"][0])


def batches(names: Iterable[str] = NAMES, steps: int = STEPS) -> Iterable[dict[str, np.ndarray]]:
    """One frame of each session at a time."""
    given = {name: inputs(name, steps) for name in names}
    for at in range(steps):
        yield {name: number(values[at]) for name, values in given.items()}


async def followed(many: Many, at: Mapping[int, Callable[[], object]]) -> dict[str, list[tuple[int, int]]]:
    """The answers to all batches by session; when so many have come, something is done."""
    answers: dict[str, list[tuple[int, int]]] = defaultdict(list)
    count = 0
    async for name, answer in many.stream(batches()):
        answers[name].append(told(answer))
        count += 1
        if count in at:
            await asyncio.to_thread(at[count])
    return answers


@pytest.fixture
def replicas(two_replicas: tuple[ReplicaProcess, ReplicaProcess]) -> Replicas:
    """Two replicas in processes of their own, by address."""
    return {replica.target(): replica for replica in two_replicas}


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(f"127.0.0.1:{server.port}") as client:
        yield client


def holder(many: Many) -> str:
    """The replica that holds them all."""
    (target,) = {session.opened.target for session in many.values()}
    return target


async def test_sessions_share_a_stream_and_nothing_else(server: Server, client: Client) -> None:
    async with client.many() as many:
        assert await many.open(NAMES, model="checker") == {}
        assert len(server.servicer.streams) == 1
        for at, batch in enumerate(batches(steps=5)):
            answers = await many.step(batch)
            assert {name: told(answer) for name, answer in answers.items()} == {n: right(n, 5)[at] for n in NAMES}
        assert {session.last_step for session in many.values()} == {5}
    await until(lambda: not server.servicer.streams, "the stream has ended")
    async with client.many() as many:
        failures = await many.open(NAMES[:2], model="checker")
        assert failures == {}  # they were closed: these are new ones
        assert many["s0"].opened.created


async def test_the_answers_of_each_session_are_as_on_a_stream_of_its_own(client: Client) -> None:
    random = np.random.default_rng(1)
    frames = random.standard_normal((20, 4)).astype(np.float32)
    async with client.session("alone", model="lstm") as alone, client.many() as many:
        await many.open(["shared"], model="lstm")
        for frame in frames:
            one = await alone.step(frame)
            (other,) = (await many.step({"shared": {"x": frame}})).values()
            assert isinstance(other, Reply)
            assert list(other.outputs) == list(one.outputs)
            for name, array in one.outputs.items():
                np.testing.assert_array_equal(other.outputs[name], array)
        several = await many.step({"shared": frames[:3]}, timesteps=3)
        one = await alone.step(frames[:3], timesteps=3)
        assert isinstance(several["shared"], Reply)
        np.testing.assert_array_equal(several["shared"].outputs["y"], one.outputs["y"])


async def test_the_loss_of_the_replica_that_holds_them_all_is_not_noticed(replicas: Replicas) -> None:
    async with Client(list(replicas)) as client, client.many() as many:
        await many.open(NAMES, model="checker")
        before = holder(many)
        answers = await followed(many, {1000: replicas[before].kill})
        assert answers == {name: right(name) for name in NAMES}
        assert holder(many) != before
        assert all(len(session.resumptions) == 1 for session in many.values())


async def test_a_drained_replica_hands_all_sessions_over(replicas: Replicas) -> None:
    async with Client(list(replicas)) as client, client.many() as many:
        await many.open(NAMES, model="checker")
        statuses: list[int] = []
        before = holder(many)
        answers = await followed(many, {1500: lambda: statuses.append(replicas[before].terminate())})
        assert answers == {name: right(name) for name in NAMES}
        assert statuses == [0]
        assert {change.reason for session in many.values() for change in session.resumptions} == {"DRAINING"}


async def test_a_replica_that_stands_still_is_left_and_cannot_commit_when_it_goes_on(replicas: Replicas) -> None:
    async with Client(list(replicas), reply_timeout=2.0) as client, client.many() as many:
        await many.open(NAMES, model="checker")
        child = replicas[holder(many)].child
        wake = {900: lambda: child.send_signal(signal.SIGSTOP), 2500: lambda: child.send_signal(signal.SIGCONT)}
        assert await followed(many, wake) == {name: right(name) for name in NAMES}
        assert all(len(session.resumptions) >= 1 for session in many.values())


async def test_one_session_that_a_rival_takes_is_superseded_alone(client: Client) -> None:
    async with client.many() as many:
        await many.open(NAMES[:3], model="checker", keep=True)
        for batch in batches(NAMES[:3], 2):
            await many.step(batch)
        async with client.session(resume=many["s1"].resume_point) as rival:
            answers = await many.step({name: number(inputs(name)[2]) for name in NAMES[:3]})
            assert isinstance(answers["s1"], errors.Superseded)
            assert [told(answers[name]) for name in ("s0", "s2")] == [right(name)[2] for name in ("s0", "s2")]
            assert told(await rival.step(number(inputs("s1")[2]))) == right("s1")[2]
            assert isinstance((await many.step({"s1": number(1)}))["s1"], errors.Superseded)


async def test_what_is_wrong_with_one_session_is_told_of_it_alone(client: Client) -> None:
    async with client.many() as many:
        failures = await many.open(["s0", "no such {id}", "s1"], model="checker")
        assert [(name, type(failure)) for name, failure in failures.items()] == [("no such {id}", errors.InvalidInput)]
        assert list(many) == ["s0", "s1"]
        with pytest.raises(KeyError):
            await many.step({"s0": number(1), "s9": number(1)})
        wrong: list[Frame] = [
            number(1).astype("f4"),
            {"z": number(1)},
            {"x": number(1), "z": number(1)},
            np.zeros((2, 2)),
        ]
        for frame in wrong:
            given: dict[str, Frame] = {"s0": frame, "s1": number(3)}
            answers = await many.step(given)
            assert isinstance(answers["s0"], errors.InvalidInput)
            assert answers["s0"].fields
            assert isinstance(answers["s1"], Reply)
        assert told((await many.step({"s0": [inputs("s0")[0]]}))["s0"]) == right("s0")[0]
    async with client.many() as many:
        (failure,) = (await many.open(["s0"], model="nothing")).values()
        assert isinstance(failure, errors.ModelUnknown)


async def test_sessions_are_left_and_resumed_by_their_saved_points(server: Server, client: Client) -> None:
    names = NAMES[:5]
    async with client.many() as many:
        await many.open(names, model="checker", keep=True)
        for batch in batches(names, 4):
            await many.step(batch)
        points = [session.resume_point.to_json() for session in many.values()]
        assert await many.close(names[:2]) == {}
        assert list(many) == names[2:]
        again = [ResumePoint.from_json(text) for text in points[:2]]
        assert await many.open(again) == {}
        assert len(server.servicer.streams) == 1
        answers = await many.step({name: number(inputs(name)[4]) for name in names})
        assert {name: told(answer) for name, answer in answers.items()} == {name: right(name)[4] for name in names}
    many = client.many()
    await many.open([ResumePoint.from_json(points[2])], lost_replies="skip")
    await many.__aexit__(ValueError, ValueError("stop"), None)
    await until(lambda: not server.servicer.streams and not server.sessions.live, "all are left")


async def test_a_session_that_is_left_early_is_free_for_others(server: Server, client: Client) -> None:
    async with client.many() as many:
        await many.open(NAMES[:3], model="checker", keep=True)
        await many.step({"s0": number(1)})
        await many.close(["s0"])
        await until(lambda: len(server.sessions.live) == 2, "it is left")
        await many._sessions.pop("s1").__aexit__(ValueError, ValueError("of the application"), None)
        await until(lambda: len(server.sessions.live) == 1, "it is left without a word")
        assert len(server.servicer.streams) == 1


async def test_a_source_that_fails_is_raised_behind_the_answers(client: Client) -> None:
    async def source() -> AsyncIterator[dict[str, np.ndarray]]:
        yield {"s0": number(inputs("s0")[0])}
        raise OSError("the field bus is gone")

    async with client.many() as many:
        await many.open(["s0"], model="checker")
        answers = many.stream(source())
        assert told((await anext(answers))[1]) == right("s0", 1)[0]
        with pytest.raises(OSError, match="field bus"):
            await anext(answers)
        with pytest.raises(KeyError):
            await anext(many.stream([{"s9": number(1)}]))


async def test_many_sessions_leave_nothing_behind(replicas: Replicas) -> None:
    async with Client(list(replicas)) as client:
        for _ in range(2):
            async with client.many() as many:
                await many.open(NAMES[:20], model="checker")
                async for _name, _answer in many.stream(batches(NAMES[:20])):
                    break
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("cellwire")]
