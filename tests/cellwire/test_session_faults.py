"""What a session does when replicas fail in ways that a real one cannot be made to show at will."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from cellwire import errors
from cellwire.calls import OwnStream
from cellwire.client import Client, Writes
from cellwire.resume import ResumePoint
from cellwire.session import Session
from cellwire.targets import Targets
from cellwire.tensors import Frame
from cellwire.v1 import cell_service_pb2 as pb
from models.cells import checked
from tests.cellwire.fake import WINDOW, FakeReplica, Memory
from tests.harness import number, timestep
from tests.waiting import until

Fakes = tuple[FakeReplica, FakeReplica]
INPUTS = [(7 * n) % 1009 for n in range(1, 21)]
KINDS = ["lose_request", "lose_reply", "end_without_a_word", "drain", "overloaded", "twice", "fall_back"]
FRAMES: list[Frame] = [number(x) for x in INPUTS]


async def streamed(session: Session, frames: list[Frame] | None = None, timesteps: int = 0) -> list[tuple[int, int]]:
    """(step, last output) of each reply."""
    replies = session.stream(frames or FRAMES, timesteps=timesteps)
    return [(reply.step, int(reply.outputs["y"].reshape(-1)[-1])) async for reply in replies]


async def streamed_whole(client: Client) -> list[tuple[int, int]]:
    """All frames through a new session."""
    async with client.session("s", model="checker") as session:
        return await streamed(session)


def right() -> list[tuple[int, int]]:
    return list(enumerate(checked(INPUTS), 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", range(1, len(INPUTS) + 1))
@pytest.mark.parametrize("mode", ["write_through", "write_behind"])
async def test_a_fault_at_any_step_changes_no_reply_and_executes_nothing_twice(
    client: Client, memory: Memory, kind: str, step: int, mode: Writes
) -> None:
    memory.faults[kind, step] = 1
    async with client.session("s", model="checker", write_mode=mode) as session:
        assert await streamed(session) == right()
    kept = memory.sessions["s"]
    assert kept.inputs == INPUTS
    assert set(kept.executed.values()) == {1}
    assert kept.closed


@pytest.mark.parametrize("seed", range(25))
async def test_any_mix_of_faults_changes_no_reply_and_executes_nothing_twice(
    client: Client, memory: Memory, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(chance.randrange(1, 25)):
        memory.faults[chance.choice(KINDS), chance.randrange(1, len(INPUTS) + 1)] = chance.randrange(1, 3)
    for opening in range(1, 12):
        if chance.random() < 0.3:
            memory.faults[chance.choice(["refuse_open", "lose_opened", "overloaded_open", "regress"]), opening] = 1
    timesteps = chance.choice([0, 0, 1, 3])
    wanted = [right()[min(place + max(timesteps, 1), len(INPUTS)) - 1] for place in range(0, 20, max(timesteps, 1))]
    mode: Writes = chance.choice(["write_through", "write_behind"])
    async with client.session("s", model="checker", write_mode=mode) as session:
        assert await streamed(session, timesteps=timesteps) == wanted
    assert memory.sessions["s"].inputs == INPUTS
    assert set(memory.sessions["s"].executed.values()) == {1}


async def test_a_reply_lost_again_and_again_is_delivered_once(client: Client, memory: Memory) -> None:
    memory.faults.update({("lose_reply", 3): 1, ("lose_request", 4): 3, ("lose_reply", 4): 1, ("drain", 9): 1})
    async with client.session("s", model="checker") as session:
        assert await streamed(session) == right()
        assert len(session.resumptions) == 6


async def test_a_step_unanswered_for_the_reply_timeout_goes_elsewhere(client: Client, memory: Memory) -> None:
    memory.faults["silent", 5] = 1
    async with client.session("s", model="checker") as session:
        first = session.opened.target
        assert await streamed(session) == right()
        assert session.opened.target != first
        (change,) = session.resumptions
    assert (change.step, change.found_step) == (4, 5)


async def test_a_committed_step_is_answered_as_replayed(client: Client, memory: Memory) -> None:
    memory.faults["lose_reply", 2] = 1
    async with client.session("s", model="checker") as session:
        replies = [await session.step(frame) for frame in FRAMES[:3]]
    assert [reply.replayed for reply in replies] == [False, True, False]


async def test_drain_is_left_at_once_whatever_delay_it_asks(client: Client, memory: Memory) -> None:
    memory.faults["drain", 1] = 1  # asks for 30 s, more than the client's patience
    async with client.session("s", model="checker") as session:
        first = session.opened.target
        assert await streamed(session) == right()
        assert session.resumptions[0].reason == "DRAINING"
        assert session.opened.target != first


async def test_several_timesteps_travel_as_one_message(client: Client, memory: Memory) -> None:
    memory.faults.update({("lose_reply", 6): 1, ("overloaded", 12): 1})
    async with client.session("s", model="checker") as session:
        assert await streamed(session, timesteps=6) == [right()[place] for place in (5, 11, 17, 19)]
        replies = [reply async for reply in session.stream(FRAMES[:3], timesteps=2)]
    assert [reply.outputs["y"].shape for reply in replies] == [(2, 1), (1, 1)]
    assert set(memory.sessions["s"].executed.values()) == {1}


async def test_a_refused_frame_raises_and_what_is_behind_it_is_not_executed(client: Client, memory: Memory) -> None:
    frames: list[Frame] = [number(1), number(2), number(-1), number(4), number(5)]
    async with client.session("s", model="checker") as session:
        delivered: list[int] = []

        async def follow() -> None:
            async for reply in session.stream(frames):
                delivered.append(reply.step)  # noqa: PERF401  it raises between

        with pytest.raises(errors.InvalidInput) as refused:
            await follow()
        assert delivered == [1, 2]
        assert refused.value.step == 3
        reply = await session.step(number(9))
    assert reply.step == 3
    assert memory.sessions["s"].inputs == [1, 2, 9]


async def test_steps_given_at_once_go_on_behind_a_refused_one(client: Client, memory: Memory) -> None:
    async with client.session("s", model="checker") as session:
        steps = [session.step(number(x)) for x in (1, -1, 3, 4)]
        first, refused, third, fourth = await asyncio.gather(*steps, return_exceptions=True)
    assert isinstance(refused, errors.InvalidInput)
    assert memory.sessions["s"].inputs == [1, 3, 4]
    assert not any(isinstance(answer, BaseException) for answer in (first, third, fourth))


async def test_superseded_is_surfaced_and_never_resumed(client: Client, memory: Memory) -> None:
    memory.faults["superseded", 3] = 1
    with pytest.raises(errors.Superseded):
        await streamed_whole(client)
    assert len(memory.opens) == 1
    assert not memory.sessions["s"].closed


async def test_an_ended_session_raises_its_error_again(client: Client, memory: Memory) -> None:
    memory.faults["superseded", 1] = 1
    async with client.session("s", model="checker") as session:
        for _ in range(WINDOW + 2):
            with pytest.raises(errors.Superseded):
                await session.step(number(1))


async def test_the_later_of_two_rivals_wins_and_the_other_is_told(client: Client, memory: Memory) -> None:
    async with client.session("s", model="checker", keep=True) as older:
        await older.step(number(1))
        async with client.session(resume=older.resume_point, keep=True) as newer:
            await newer.step(number(2))
            with pytest.raises(errors.Superseded):
                await older.step(number(3))
            await newer.step(number(4))
    assert memory.sessions["s"].inputs == [1, 2, 4]


async def test_a_rival_that_comes_amid_writes_is_never_resumed_against(client: Client, memory: Memory) -> None:
    chance = random.Random(1)
    for name in range(60):
        step = chance.randrange(1, 12)

        def displace(done: int, name: int = name, step: int = step) -> None:
            if done == step:
                memory.sessions[f"s{name}"].owner = object()
                memory.sessions[f"s{name}"].epoch += 1

        memory.on_step = displace
        with pytest.raises(errors.Superseded):
            async with client.session(f"s{name}", model="checker") as session:
                await streamed(session)
        assert len(memory.opens) == name + 1


async def test_what_was_said_before_the_end_is_read_behind_a_write_that_met_the_end(
    fakes: Fakes, memory: Memory
) -> None:
    """Otherwise a superseded client would take a status made by its own library for a broken connection, and resume."""
    memory.faults["superseded", 2] = 1
    targets = Targets(fakes[0].target)
    stream = OwnStream(targets[0])
    await stream.write(pb.StreamRequest(open=pb.Open(session_id="s", model="checker")))
    for step in range(1, 40):
        await stream.write(pb.StreamRequest(timestep=timestep(step, number(3))))
    await until(stream._call.done, "a write that fails")
    kinds = [(await stream.read()).WhichOneof("kind") for _ in range(3)]
    assert kinds == ["opened", "reply", "notice"]
    with pytest.raises(errors.Superseded):
        await stream.read()
    await targets.close()


async def test_a_stale_open_opens_again_with_the_epoch_told(client: Client, memory: Memory) -> None:
    memory.faults["lose_opened", 1] = 1
    async with client.session("s", model="checker") as session:
        assert await streamed(session) == right()
    assert [opening.found_epoch for opening in memory.opens] == [0, 0, 1]


@pytest.mark.parametrize("kind", ["refuse_open", "silent_open", "overloaded_open"])
async def test_an_open_is_tried_again(fakes: Fakes, memory: Memory, kind: str) -> None:
    memory.faults.update({(kind, 1): 1, (kind, 2): 1})
    async with Client([fake.target for fake in fakes], reply_timeout=0.2) as client:
        session = client.session("s", model="checker")
        session._line._patience = type(session._line._patience)(reply=0.2, open=0.2)
        async with session:
            assert await streamed(session) == right()


async def test_another_lineage_is_noticed_before_anything_is_sent(client: Client, memory: Memory) -> None:
    memory.faults.update({("lose_request", 6): 1, ("other_h", 2): 1})
    with pytest.raises(errors.LineageMismatch):
        await streamed_whole(client)
    assert memory.sessions["s"].step == 5


async def test_another_lineage_is_noticed_when_a_step_is_replayed(client: Client, memory: Memory) -> None:
    memory.faults.update({("lose_reply", 6): 1, ("other_h", 2): 1})
    with pytest.raises(errors.LineageMismatch):
        await streamed_whole(client)


async def test_nobody_left_is_said_after_the_time_given(memory: Memory) -> None:
    async with FakeReplica(memory) as only:
        async with Client(only.target, give_up_after=0.5) as client:
            session = client.session("s", model="checker")
            await session.__aenter__()
            await only.server.stop(0)
            with pytest.raises(errors.Unavailable) as given_up:
                await session.step(number(1))
            await session.__aexit__(None, None, None)
    assert isinstance(given_up.value.__cause__, errors.Disconnected)


async def test_a_service_that_stays_overloaded_is_given_up(fakes: Fakes, memory: Memory) -> None:
    memory.faults["overloaded", 2] = 10**9
    async with Client(fakes[0].target, give_up_after=0.3) as client:
        session = client.session("s", model="checker")
        await session.__aenter__()
        await session.step(number(1))
        with pytest.raises(errors.Unavailable) as given_up:
            await session.step(number(2))
        await session.__aexit__(None, None, None)
    assert isinstance(given_up.value.__cause__, errors.Overloaded)


async def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with Client(fakes[0].target, give_up_after=5.0) as client, client.session("s", model="checker") as session:
        assert (await session.step(number(1))).step == 1


async def test_a_lost_closed_is_still_a_success(client: Client, memory: Memory) -> None:
    memory.faults["lose_closed", 0] = 1
    async with client.session("s", model="checker") as session:
        await session.step(number(1))
    assert memory.sessions["s"].closed
    assert len(memory.opens) == 2


async def test_an_exception_in_the_block_keeps_the_state(client: Client, memory: Memory) -> None:
    async def fail() -> None:
        async with client.session("s", model="checker") as session:
            await session.step(number(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not memory.sessions["s"].closed


async def test_a_saved_point_goes_on_where_the_application_stood(client: Client, memory: Memory) -> None:
    async with client.session("s", model="checker", keep=True) as session:
        async for reply in session.stream(FRAMES):
            if reply.step == 7:
                saved = session.resume_point.to_json()
                break
    async with client.session(resume=ResumePoint.from_json(saved)) as session:
        assert session.last_step == 7
        rest = await streamed(session, list(FRAMES[7:]))
    assert rest == right()[7:]
    assert set(memory.sessions["s"].executed.values()) == {1}


async def test_a_session_opened_by_its_id_goes_on_where_it_stands(client: Client, memory: Memory) -> None:
    async with client.session("s", model="checker", keep=True) as session:
        await session.step(number(5))
    async with client.session("s", model="checker") as session:
        assert not session.opened.created
        reply = await session.step(number(6))
    assert (reply.step, int(reply.outputs["y"][0])) == (2, checked([5, 6])[-1])


async def test_create_refuses_a_session_that_exists(client: Client) -> None:
    async with client.session("s", model="checker", keep=True) as session:
        await session.step(number(5))
    with pytest.raises(errors.SessionExists):
        await client.session("s", model="checker", mode="create").__aenter__()


async def test_no_more_than_the_window_is_unanswered(client: Client, memory: Memory) -> None:
    drawn = 0
    answered = 0

    async def source() -> AsyncIterator[Frame]:
        nonlocal drawn
        for frame in FRAMES:
            drawn += 1
            assert drawn <= answered + WINDOW + 2  # one drawn by the feeder, one reply in the consumer's hand
            yield frame

    async with client.session("s", model="checker") as session:
        async for reply in session.stream(source()):
            answered = reply.step
    assert drawn == len(FRAMES)


async def test_what_a_source_raises_is_raised_behind_the_replies(client: Client) -> None:
    def source() -> Iterator[Frame]:
        yield number(1)
        yield number(2)
        raise ZeroDivisionError

    delivered: list[int] = []

    async def follow(session: Session) -> None:
        async for reply in session.stream(source()):
            delivered.append(reply.step)  # noqa: PERF401  it raises between

    async with client.session("s", model="checker", keep=True) as session:
        with pytest.raises(ZeroDivisionError):
            await follow(session)
    assert delivered == [1, 2]


async def test_a_cancelled_consumer_leaves_nothing_behind(client: Client, fakes: Fakes, memory: Memory) -> None:
    began = asyncio.Event()

    async def endless() -> AsyncIterator[Frame]:
        yield number(1)
        await asyncio.Event().wait()

    async def consume() -> None:
        async with client.session("s", model="checker") as session:
            async for _ in session.stream(endless()):
                began.set()

    before = asyncio.all_tasks()
    consumer = asyncio.create_task(consume())
    await began.wait()
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    left = {repr(task.get_coro()) for task in asyncio.all_tasks() - before}
    assert not {name for name in left if "Line." in name or "Session." in name}
    assert not memory.sessions["s"].closed


async def test_a_unary_step_is_executed_once_however_often_it_is_tried(client: Client, memory: Memory) -> None:
    memory.faults.update({("lose_reply", 2): 1, ("lose_request", 3): 1, ("overloaded", 4): 2})
    point = ResumePoint.new("u", "checker")
    answers = []
    for x in INPUTS[:6]:
        reply, point = await client.step(point, number(x))
        answers.append((reply.step, int(reply.outputs["y"][0]), reply.replayed))
    assert answers == [(n, y, n == 2) for n, y in enumerate(checked(INPUTS[:6]), 1)]
    with pytest.raises(errors.InvalidInput):
        await client.step(point, number(-1))


async def test_the_open_of_a_resumption_has_the_whole_resume_point(client: Client, memory: Memory) -> None:
    memory.faults["lose_reply", 3] = 1
    async with client.session("s", model="checker") as session:
        await streamed(session)
    first, second = memory.opens
    assert (first.mode, second.mode) == (pb.OPEN_MODE_CREATE_OR_RESUME, pb.OPEN_MODE_RESUME)
    assert first.create_token == second.create_token
    assert len(first.create_token) == 16
    assert (second.found_epoch, second.resume_point.durable_step, second.resume_point.store_id) == (1, 2, b"store")
    assert second.resume_point.received.step == 2
