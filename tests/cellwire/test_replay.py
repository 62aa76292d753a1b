"""What a client does when the store holds less than it had received, or more: replay, and what was asked for."""

from contextlib import suppress

import pytest

from cellwire import errors
from cellwire.client import Client, Writes
from cellwire.resume import ResumePoint
from cellwire.session import Session
from cellwire.tensors import Frame
from cellwire.v1 import cell_service_pb2 as pb
from models.cells import checked
from tests.cellwire.fake import FLUSH, FakeReplica, Memory, Step
from tests.harness import number

Fakes = tuple[FakeReplica, FakeReplica]
INPUTS = [(11 * n) % 1013 for n in range(1, 16)]
FRAMES: list[Frame] = [number(x) for x in INPUTS]
MODES: list[Writes] = ["write_through", "write_behind"]


async def followed(session: Session, first: int = 1) -> list[tuple[int, int]]:
    """(step, output) of each reply to the frames from this step on."""
    return [(reply.step, int(reply.outputs["y"][0])) async for reply in session.stream(FRAMES[first - 1 :])]


def right(first: int = 1) -> list[tuple[int, int]]:
    return list(enumerate(checked(INPUTS), 1))[first - 1 :]


async def saved_after(client: Client, step: int, mode: Writes = "write_through") -> ResumePoint:
    """Where an application stood that read so many replies, and then was gone while others were on their way."""
    async with client.session("s", model="checker", keep=True, write_mode=mode) as session:
        async for reply in session.stream(FRAMES):
            if reply.step == step:
                break
        return ResumePoint.from_json(session.resume_point.to_json())


@pytest.mark.parametrize("lost", [1, 2, 5, 15])
@pytest.mark.parametrize("step", [1, 2, 8, 15])
async def test_what_the_store_lost_is_sent_again_and_delivered_once(
    client: Client, memory: Memory, lost: int, step: int
) -> None:
    memory.faults["fall_back", step] = lost
    async with client.session("s", model="checker") as session:
        assert await followed(session) == right()
        resumptions = session.resumptions
    kept = memory.sessions["s"]
    assert kept.inputs == INPUTS
    assert set(kept.executed.values()) == {1}
    if step == 1:
        assert not resumptions
        return
    (change,) = resumptions
    assert (change.step, change.found_step) == (step - 1, max(step - 1 - lost, 0))
    assert (change.replayed, change.regressed, change.reason) == (min(lost, step - 1), True, "STATE_REGRESSED")


async def test_the_open_accepts_the_very_place_that_it_was_told(client: Client, memory: Memory) -> None:
    memory.faults["fall_back", 9] = 3
    async with client.session("s", model="checker") as session:
        await followed(session)
    _, refused, accepting = memory.opens
    assert not refused.HasField("accept_regression")
    assert (refused.resume_point.received.step, refused.resume_point.durable_step) == (8, 8)
    place = accepting.accept_regression
    assert place.step == 5
    assert accepting.resume_point.received == place
    assert accepting.resume_point.durable_step == 5


async def test_a_store_that_falls_back_again_while_it_is_brought_up_is_brought_up(
    client: Client, memory: Memory
) -> None:
    memory.faults.update({("lose_request", 10): 1, ("regress", 2): 1, ("lose_reply", 9): 1, ("regress", 4): 1})
    async with client.session("s", model="checker") as session:
        assert await followed(session) == right()
        assert [change.regressed for change in session.resumptions] == [True, True]
    assert memory.sessions["s"].inputs == INPUTS


async def test_a_store_that_comes_back_with_what_it_had_lost_is_believed(client: Client, memory: Memory) -> None:
    memory.faults["fall_back", 9] = 4
    lost: list[Step] = []

    def bring_back(step: int) -> None:  # a failover back to the store that had everything
        if step == 5 and len(memory.opens) == 3:
            kept = memory.sessions["s"]
            kept.history[-1:] = lost
            kept.executed.update(range(6, 9))
            memory.faults["lose_reply", 5] = 1

    def note(step: int) -> None:
        if step == 8 and not lost:
            lost.extend(memory.sessions["s"].history[4:])
        bring_back(step)

    memory.on_step = note
    async with client.session("s", model="checker") as session:
        assert await followed(session) == right()
        assert [change.found_step for change in session.resumptions] == [4, 8]
    assert memory.sessions["s"].inputs == INPUTS


async def test_amid_a_replay_the_application_stands_where_it_was(client: Client, memory: Memory) -> None:
    points: list[ResumePoint] = []
    memory.faults["fall_back", 9] = 3
    async with client.session("s", model="checker") as session:
        memory.on_step = lambda step: points.append(session.resume_point) if len(memory.opens) == 3 else None
        for frame in FRAMES[:9]:
            await session.step(frame)
    amid = points[:3]
    assert amid[0].durable_step == 5
    for point in amid:  # the replica may be ahead of what the client has read
        assert point.step == 8
        assert [step for step, _ in point.undurable] == list(range(point.durable_step + 1, 9))
        assert point.undurable[-1] == (8, point.h)


async def test_what_the_store_holds_beyond_the_received_is_not_told_to_be_durable(
    client: Client, memory: Memory
) -> None:
    memory.faults["lose_reply", 3] = 1
    memory.on_step = lambda step: memory.faults.update({("lose_request", step): 1}) if step == 3 else None
    async with client.session("s", model="checker") as session:
        for frame in FRAMES[:3]:
            await session.step(frame)
    points = [opening.resume_point for opening in memory.opens[1:]]
    assert [(point.received.step, point.durable_step) for point in points] == [(2, 2), (2, 2)]


async def test_another_history_behind_the_fall_is_a_mismatch(client: Client, memory: Memory) -> None:
    def rewrite(step: int) -> None:
        if step == 8:
            memory.faults["fall_back", 9] = 3
            memory.sessions["s"].history[4].reply.h = b"another lineage!"

    memory.on_step = rewrite
    with pytest.raises(errors.LineageMismatch):
        async with client.session("s", model="checker") as session:
            await followed(session)


async def test_a_replay_that_leads_elsewhere_is_a_mismatch(client: Client, memory: Memory) -> None:
    def rewrite(step: int) -> None:
        if step == 7 and memory.sessions["s"].forgotten[7]:
            memory.sessions["s"].history[-1].reply.h = b"another lineage!"

    memory.faults["fall_back", 9] = 3
    memory.on_step = rewrite
    with pytest.raises(errors.LineageMismatch):
        async with client.session("s", model="checker") as session:
            await followed(session)


async def test_a_replay_that_is_refused_ends_the_session_and_renumbers_nothing(client: Client, memory: Memory) -> None:
    memory.faults.update({("fall_back", 9): 3, ("refused_again", 7): 1})
    delivered: list[int] = []

    async def follow() -> None:
        async with client.session("s", model="checker") as session:
            async for reply in session.stream(FRAMES):
                delivered.append(reply.step)  # noqa: PERF401  it raises between

    with pytest.raises(errors.NonFinite) as refused:
        await follow()
    assert refused.value.step == 7
    assert delivered == list(range(1, 9))
    assert memory.sessions["s"].inputs == INPUTS[:6]


@pytest.mark.parametrize(
    ("limits", "lost"), [({"keep_messages": 0}, 1), ({"keep_messages": 3}, 4), ({"keep_bytes": 60}, 5)]
)
async def test_a_loss_that_the_kept_inputs_do_not_cover_is_told_and_may_be_accepted(
    fakes: Fakes, memory: Memory, limits: dict[str, int], lost: int
) -> None:
    memory.faults["fall_back", 9] = lost
    async with Client([fake.target for fake in fakes], **limits) as client:
        session = client.session("s", model="checker")
        with pytest.raises(errors.StateRegressed) as regressed:
            async with session:
                await followed(session)
        place = regressed.value.position
        assert place is not None
        assert place.step == 8 - lost
        async with client.session(resume=session.resume_point.back_to(place)) as session:
            assert session.last_step == place.step
            assert await followed(session, place.step + 1) == right(place.step + 1)
    assert memory.sessions["s"].inputs == INPUTS


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_loss_within_the_kept_inputs_is_made_good(fakes: Fakes, memory: Memory, lost: int) -> None:
    memory.faults["fall_back", 9] = lost
    async with Client([fake.target for fake in fakes], keep_messages=3) as client:
        async with client.session("s", model="checker") as session:
            assert await followed(session) == right()


# write-behind


async def test_in_write_behind_what_a_replica_had_not_written_is_sent_again(client: Client, memory: Memory) -> None:
    memory.faults["lose_request", 9] = 1  # 7 and 8 were answered and are not in the store
    async with client.session("s", model="checker", write_mode="write_behind") as session:
        assert session.opened.write_behind
        assert session.opened.max_undurable == FLUSH
        assert await followed(session) == right()
        (change,) = session.resumptions
    assert (change.step, change.found_step, change.replayed, change.regressed) == (8, 6, 2, False)
    point = memory.opens[1].resume_point
    assert (point.received.step, point.durable_step, [each.step for each in point.undurable]) == (8, 6, [7, 8])
    assert memory.sessions["s"].inputs == INPUTS
    assert memory.sessions["s"].closed


async def test_replies_tell_how_far_the_store_is(client: Client) -> None:
    async with client.session("s", model="checker", write_mode="write_behind") as session:
        replies = [await session.step(frame) for frame in FRAMES[:7]]
        point = session.resume_point
    assert [reply.durable_step for reply in replies] == [0, 0, 3, 3, 3, 6, 6]
    assert (point.step, point.durable_step, [step for step, _ in point.undurable]) == (7, 6, [7])


async def test_in_write_behind_all_that_is_not_durable_is_kept_whatever_the_limit(fakes: Fakes, memory: Memory) -> None:
    memory.faults["lose_request", 9] = 1
    async with Client([fake.target for fake in fakes], keep_messages=0) as client:
        async with client.session("s", model="checker", write_mode="write_behind") as session:
            assert await followed(session) == right()
        memory.faults["fall_back", 9] = 1
        with pytest.raises(errors.StateRegressed):
            async with client.session("t", model="checker", write_mode="write_behind") as session:
                await followed(session)


async def test_a_saved_point_beyond_the_store_is_told_to_the_application(client: Client) -> None:
    session = client.session("s", model="checker", write_mode="write_behind")
    with suppress(ZeroDivisionError):
        async with session:
            for frame in FRAMES[:8]:
                await session.step(frame)
            raise ZeroDivisionError  # the fake replica writes nothing when it is left
    point = ResumePoint.from_json(session.resume_point.to_json())
    assert [step for step, _ in point.undurable] == [7, 8]
    with pytest.raises(errors.StateRegressed) as regressed:
        await client.session(resume=point).__aenter__()
    assert regressed.value.position is not None
    async with client.session(resume=point.back_to(regressed.value.position)) as session:
        assert await followed(session, 7) == right(7)


# replies that a program lost


@pytest.fixture
async def point(client: Client, memory: Memory) -> ResumePoint:
    """Saved after step 5, while the store went on to step 9."""
    async with client.session("s", model="checker", keep=True) as session:
        replies = [await session.step(frame) for frame in FRAMES[:5]]
        point = session.resume_point
        replies += [await session.step(frame) for frame in FRAMES[5:9]]
    assert replies[-1].step == memory.sessions["s"].step == 9
    return point


async def test_lost_replies_come_when_their_inputs_are_given_again(client: Client, point: ResumePoint) -> None:
    async with client.session(resume=point) as session:
        assert session.last_step == 5
        assert not session.fetched
        assert await followed(session, 6) == right(6)


async def test_lost_replies_are_fetched_in_order_and_the_session_goes_on_behind_them(
    client: Client, memory: Memory, point: ResumePoint
) -> None:
    async with client.session(resume=point, lost_replies="fetch") as session:
        fetched = [(reply.step, int(reply.outputs["y"][0])) for reply in session.fetched]
        assert fetched + await followed(session, 10) == right(6)
        assert all(reply.replayed for reply in session.fetched)
    assert memory.sessions["s"].inputs == INPUTS


@pytest.mark.parametrize("step", range(6, 10))
async def test_a_fetch_that_breaks_goes_on_where_it_was(
    client: Client, memory: Memory, point: ResumePoint, step: int
) -> None:
    memory.faults["lose_fetched", step] = 1
    async with client.session(resume=point, lost_replies="fetch") as session:
        assert [reply.step for reply in session.fetched] == [6, 7, 8, 9]
        assert await followed(session, 10) == right(10)
    assert [opening.replies_after for opening in memory.opens[1:]] == [5, step - 1]


async def test_after_the_first_open_nothing_is_fetched_or_skipped(
    client: Client, memory: Memory, point: ResumePoint
) -> None:
    memory.faults.update({("lose_reply", 11): 1})
    async with client.session(resume=point, lost_replies="fetch") as session:
        assert await followed(session, 10) == right(10)
        assert len(session.resumptions) == 1
        assert len(session.fetched) == 4
    assert not any(opening.HasField("replies_after") for opening in memory.opens[-1:])


async def test_fetched_replies_of_another_history_are_a_mismatch(
    client: Client, memory: Memory, point: ResumePoint
) -> None:
    memory.faults["other_h", 2] = 1
    with pytest.raises(errors.LineageMismatch):
        await client.session(resume=point, lost_replies="fetch").__aenter__()


async def test_lost_replies_are_skipped_knowingly(client: Client, memory: Memory, point: ResumePoint) -> None:
    memory.faults["lose_reply", 11] = 1
    async with client.session(resume=point, lost_replies="skip") as session:
        assert session.last_step == 9
        assert await followed(session, 10) == right(10)
    assert [opening.skip_lost_replies for opening in memory.opens] == [False, True, False]


async def test_replies_beyond_the_ring_are_only_skipped(client: Client) -> None:
    point = await saved_after(client, 2)
    async with client.session(resume=point, keep=True) as session:
        await followed(session, 3)
    with pytest.raises(errors.StepTooOld):
        await client.session(resume=point).__aenter__()
    with pytest.raises(errors.StepTooOld):
        await client.session(resume=point, lost_replies="fetch").__aenter__()
    async with client.session(resume=point, lost_replies="skip") as session:
        assert session.last_step == 15
        reply = await session.step(number(5))
    assert (reply.step, int(reply.outputs["y"][0])) == (16, checked([*INPUTS, 5])[-1])


# what is asked for with a session or a step


async def test_replicas_of_the_store_are_asked_for_and_their_lack_is_told(client: Client, memory: Memory) -> None:
    async with client.session("s", model="checker", replicas=2) as session:
        assert session.opened.replicas == 2
        assert (await session.step(FRAMES[0])).degraded
    async with client.session("t", model="checker", replicas=1) as session:
        assert not (await session.step(FRAMES[0])).degraded
    assert [opening.replicas for opening in memory.opens] == [2, 1]


async def test_deadline_and_priority_go_with_each_message_and_not_with_its_replay(
    client: Client, memory: Memory
) -> None:
    memory.faults["fall_back", 4] = 1
    async with client.session("s", model="checker") as session:
        async for _ in session.stream(FRAMES[:3], start_within=1.5, priority=2):
            pass
        await session.step(FRAMES[3], start_within=0.25)
        with pytest.raises(ValueError, match="start_within"):
            await session.step(FRAMES[4], start_within=0.0)
    told = [(each.step, each.timeout.ToMilliseconds(), each.priority) for each in memory.timesteps]
    assert told == [(1, 1500, 2), (2, 1500, 2), (3, 1500, 2), (4, 250, 0), (3, 0, 2), (4, 250, 0)]


async def test_a_step_that_cannot_start_in_time_is_refused_and_the_session_goes_on(
    client: Client, memory: Memory
) -> None:
    memory.faults["overloaded", 2] = 10**6
    async with client.session("s", model="checker") as session:
        await session.step(FRAMES[0])
        with pytest.raises(errors.StepDeadline) as late:
            await session.step(FRAMES[1], start_within=0.05)
        assert late.value.step == 2
        memory.faults.clear()
        reply = await session.step(FRAMES[2])
    assert reply.step == 2
    assert memory.sessions["s"].inputs == [INPUTS[0], INPUTS[2]]


async def test_a_unary_step_takes_the_same_options(client: Client, memory: Memory) -> None:
    await client.step(ResumePoint.new("u", "checker"), FRAMES[0], start_within=2.0, priority=-1, replicas=1)
    (timestep,) = memory.timesteps
    assert (timestep.timeout.seconds, timestep.priority) == (2, -1)
    assert isinstance(timestep, pb.Timestep)
