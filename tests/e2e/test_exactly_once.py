"""A session advances exactly once a timestep, whoever dies, repeats, competes or comes late."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc
from models.cells import checked
from service.model.cell import Cell
from service.model.proof import load
from service.model.repository import Repository
from service.server import Server
from service.store.keys import session_key
from service.values import CellResult, CellWork
from tests.conftest import speech
from tests.harness import Fault as Told
from tests.harness import Place, ReplicaProcess, WireStream, arrays, fault_of, number, replica, timestep
from tests.numbered import Ended, Numbered
from tests.proxy import Fault, Proxy, chaos
from tests.waiting import until

TWINS = ("silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence", "silero_vad_openvino_16k")
NEAR_TWIN = "silero_vad_op18_ifless"


def values(seed: int, steps: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(2**31 - 1) for _ in range(steps)]


def counting(session_id: str, seed: int, steps: int) -> Numbered:
    """A client of `checker` with inputs of its own."""
    return Numbered(session_id, [number(value) for value in values(seed, steps)])


def floating(session_id: str, seed: int, steps: int) -> Numbered:
    """A client of `lstm` with inputs of its own."""
    inputs = np.random.default_rng(seed).standard_normal((steps, 4)).astype(np.float32)
    return Numbered(session_id, list(inputs), "lstm")


def dial(target: str | int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target if isinstance(target, str) else f"127.0.0.1:{target}")


@cache
def cell_of(models: Path, model: str) -> Cell:
    """The model without a service."""
    return load(Repository((models,)), model, "1")


def alone(models: Path, client: Numbered) -> list[np.ndarray]:
    """The outputs of the client's inputs with nobody else in the batch and nothing between the steps."""
    cell = cell_of(models, client.model)
    state, outputs = cell.spec.initial_state, []
    for x in client.inputs:
        (result,) = cell.run([CellWork(state, ((x.tobytes(),),))])
        assert isinstance(result, CellResult)
        state = result.state
        outputs.append(np.frombuffer(result.rows[0][0], cell.spec.outputs[0].dtype))
    return outputs


def assert_uninterrupted(models: Path, client: Numbered) -> None:
    """Exactly for `checker`, within 1e-6 for floating point."""
    assert client.received == len(client.inputs)
    expected = alone(models, client)
    if client.model == "checker":
        assert client.numbers() == checked([int(x[0]) for x in client.inputs])
        assert [int(y[0]) for y in expected] == client.numbers()
    else:
        np.testing.assert_allclose(client.outputs(), expected, rtol=0, atol=1e-6)


@asynccontextmanager
async def replicas(place: Place, count: int = 2, **settings: object) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Channels to so many replicas in this process."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(replica(place, **settings)) for _ in range(count)]
        yield [await stack.enter_async_context(dial(server.port)) for server in servers]


# ---- many sessions


@pytest.mark.parametrize("client_of", [counting, floating], ids=["checker", "lstm"])
async def test_each_of_200_sessions_in_shared_batches_is_as_if_it_were_alone(
    channel: grpc.aio.Channel, test_models: Path, client_of: Callable[[str, int, int], Numbered]
) -> None:
    steps = 10
    clients = [client_of(f"s{seed}", seed, steps) for seed in range(200)]
    batches, items = batched(clients[0].model)
    await asyncio.gather(*(client.ride(channel, steps) for client in clients))
    for client in clients:
        assert_uninterrupted(test_models, client)
    batches_after, items_after = batched(clients[0].model)
    assert items_after - items == 200 * steps
    assert batches_after - batches < 100 * steps


def batched(model: str) -> tuple[float, float]:
    """Batches run and timesteps in them, so far."""
    sample = REGISTRY.get_sample_value
    count, total = (sample(f"cellwire_batch_size_{part}", {"model": model}) for part in ("count", "sum"))
    return count or 0.0, total or 0.0


async def test_every_message_sent_twice_is_executed_once(channel: grpc.aio.Channel) -> None:
    client = counting("s", 1, 30)
    stream = await client.open(channel)
    for step in range(1, 31):
        for _ in range(2):
            await stream.send(pb.StreamRequest(timestep=client.message(step)))
        first, second = (await stream.read()).reply, (await stream.read()).reply
        client.take(first)
        assert (first.replayed, second.replayed) == (False, True)
        assert second.outputs.SerializeToString() == first.outputs.SerializeToString()
        assert (second.step, second.h) == (first.step, first.h)
    refused = await stream.refused(pb.StreamRequest(timestep=timestep(30, number(99))))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STEP_CONFLICT")
    assert client.numbers() == checked(values(1, 30))
    await stream.close()


async def test_the_digest_of_a_step_tells_every_step_before_it(channel: grpc.aio.Channel) -> None:
    """Of sessions that began alike: the digest of the last step is the same where all inputs were."""
    token, digests = os.urandom(16), []
    for session_id, inputs in ("a", (1, 2)), ("b", (1, 2)), ("c", (9, 2)):
        stream = WireStream(channel)
        await stream.open(session_id, create_token=token)
        for step, value in enumerate(inputs, 1):
            last = await stream.replied(step, number(value))
        digests.append(last.h)
        await stream.close()
    assert digests[0] == digests[1] != digests[2]


async def test_only_what_follows_is_refused_for_load(server: Server, channel: grpc.aio.Channel) -> None:
    client = counting("s", 14, 3)
    stream = await client.open(channel)
    for step in (1, 2):
        client.take(await stream.replied(step, client.inputs[step - 1]))
    cell = server.cells.loaded("checker", "")
    assert cell
    cell.admission.in_flight += 10**6
    assert (await stream.replied(2, client.inputs[1])).replayed
    told = await stream.refused(pb.StreamRequest(timestep=client.message(3)))
    assert told.reason == "OVERLOADED"
    assert told.retry_seconds
    cell.admission.in_flight -= 10**6
    await asyncio.sleep(told.retry_seconds)
    client.take(await stream.replied(3, client.inputs[2]))
    assert client.numbers() == checked(values(14, 3))
    await stream.close()


# ---- two clients, two replicas


async def test_two_clients_who_fight_for_a_session_never_advance_it_twice(place: Place) -> None:
    steps, told = 60, set[str]()

    async def fight(client: Numbered, channels: Sequence[grpc.aio.Channel], draw: random.Random) -> None:
        while client.received < steps:
            try:
                await client.ride(draw.choice(channels), steps, window=draw.randint(1, 4))
            except Ended as error:
                told.add(error.reason)

    async with replicas(place) as channels:
        first, second = counting("s", 1, steps), counting("s", 1, steps)
        second.token = first.token
        await asyncio.gather(fight(first, channels, random.Random(1)), fight(second, channels, random.Random(2)))
    assert "SUPERSEDED" in told
    assert told <= {"SUPERSEDED", "WRITE_FAILED_HERE"}
    for client in (first, second):
        assert client.numbers() == checked(values(1, steps))
    assert [reply.h for reply in first.replies] == [reply.h for reply in second.replies]
    assert not any(a.replayed == b.replayed for a, b in zip(first.replies, second.replies, strict=True))


@pytest.mark.parametrize("same_replica", [True, False])
async def test_the_older_of_two_streams_is_told_that_it_was_superseded(place: Place, same_replica: bool) -> None:
    async with replicas(place) as channels:
        client = counting("s", 1, 5)
        await client.ride(channels[0], 3)
        older = await client.open(channels[0])
        newer = await client.open(channels[0 if same_replica else 1])
        reply = await newer.replied(4, client.inputs[3])
        if not same_replica:
            await older.send(pb.StreamRequest(timestep=timestep(4, number(5))))
        fault = await ended_without_a_reply(older)
        assert (fault.code, fault.reason) == (grpc.StatusCode.ABORTED, "SUPERSEDED")
        assert int(arrays(reply.outputs)["y"][0]) == checked(values(1, 4))[-1]
        await newer.close()


async def test_an_idle_stream_learns_from_its_heartbeat_that_it_was_superseded(place: Place) -> None:
    async with replicas(place, heartbeat=0.1) as channels:
        client = counting("s", 1, 5)
        await client.ride(channels[0], 3)
        older = await client.open(channels[0])
        newer = await client.open(channels[1])
        assert (await ended_without_a_reply(older)).reason == "SUPERSEDED"
        await newer.replied(4, client.inputs[3])
        await newer.close()


async def test_a_lone_client_whose_claim_the_store_forgot_is_not_told_of_a_rival(place: Place) -> None:
    """As after a failover to a replica that had not seen the claim: nobody displaced it."""
    async with replicas(place, 1) as (channel,), client_of(place) as store:
        client = counting("s", 12, 6)
        await client.ride(channel, 3)
        before = await stored(place, "s")
        stream = await client.open(channel)
        await store.hset(session_key(place.tenant, "s"), mapping={name: before[name] for name in (b"e", b"o", b"p")})
        await stream.send(pb.StreamRequest(timestep=client.message(4)))
        fault = await ended_without_a_reply(stream)
        assert (fault.code, fault.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        await client.ride(channel, 6)
        assert client.numbers() == checked(values(12, 6))


async def ended_without_a_reply(stream: WireStream) -> Told:
    """The fault that ends a stream which must not answer anything any more."""
    replies = []
    read = stream.read

    async def watched() -> pb.StreamResponse:
        response = await read()
        if response.WhichOneof("kind") == "reply":
            replies.append(response)
        return response

    stream.read = watched  # type: ignore[method-assign]
    fault = await stream.ended()
    assert not replies
    return fault


async def test_unary_calls_over_two_replicas_with_every_reply_lost_once(place: Place) -> None:
    async with replicas(place) as channels:
        client, draw = counting("s", 3, 40), random.Random(3)
        for step in range(1, 41):
            lost = await client.call(channels[step % 2], step)
            again = await client.call(channels[draw.randrange(2)], step)
            assert (lost.replayed, again.replayed) == (False, True)
            assert again.outputs.SerializeToString() == lost.outputs.SerializeToString()
            client.take(again)
        assert client.numbers() == checked(values(3, 40))


async def test_a_repeated_call_is_answered_by_the_store_and_not_by_what_its_replica_remembers(place: Place) -> None:
    """Without a resume point the call does not say that the session went on elsewhere."""
    async with replicas(place) as (one, other):
        client = counting("s", 13, 3)
        for channel, step in (one, 1), (other, 2), (other, 3):
            last = await client.call(channel, step)
        again = await client.call(one, 3)
        assert again.replayed
        assert again.outputs.SerializeToString() == last.outputs.SerializeToString()


async def test_unary_calls_that_compete_are_each_executed_once(place: Place) -> None:
    """The same call at the same time on both replicas, many times: one executes, the other one replays."""
    async with replicas(place) as channels:
        client = counting("s", 4, 20)
        for step in range(1, 21):
            both = await asyncio.gather(*(client.call(channel, step) for channel in channels))
            assert both[0].outputs.SerializeToString() == both[1].outputs.SerializeToString()
            assert sorted(reply.replayed for reply in both) == [False, True]
            client.take(both[0])
        assert client.numbers() == checked(values(4, 20))


# ---- replicas that die or stop


async def test_a_replica_killed_after_any_step_loses_and_doubles_nothing(
    place: Place, test_models: Path, tmp_path: Path
) -> None:
    """Twenty times: the replica that holds two sessions dies with messages in flight, another one goes on."""
    kills, steps, draw = 20, 400, random.Random(20)
    clients = [counting("c", 20, steps), floating("f", 20, steps)]
    with Children() as children:
        spare = [ReplicaProcess(children, place, tmp_path, f"r{at}") for at in range(2)]
        for at in range(kills):
            holder = spare.pop(0)
            spare.append(ReplicaProcess(children, place, tmp_path, f"r{at + 2}"))
            doomed = clients[0].received + draw.randint(1, 2 * steps // kills - 1)

            def kill(step: int, doomed: int = doomed, holder: ReplicaProcess = holder) -> None:
                if step == doomed:
                    holder.kill()

            async with dial(await asyncio.to_thread(holder.target)) as channel:
                rides = [clients[0].ride(channel, steps, 8, kill), clients[1].ride(channel, steps, 8)]
                ends = await asyncio.gather(*rides, return_exceptions=True)
            assert all(
                end is None or (isinstance(end, Ended) and end.reason in ("CONNECTION", "WRITE_FAILED_HERE"))
                for end in ends
            ), ends
        async with dial(await asyncio.to_thread(spare[0].target)) as channel:
            await asyncio.gather(*(client.ride(channel, steps) for client in clients))
    for client in clients:
        assert_uninterrupted(test_models, client)
    assert sum(client.replayed for client in clients) > 0


async def test_what_a_stopped_owner_finds_when_it_wakes_is_never_delivered(
    two_replicas: tuple[ReplicaProcess, ReplicaProcess],
) -> None:
    first, second = two_replicas
    client = counting("s", 5, 8)
    async with dial(first.target()) as old, dial(second.target()) as new:
        await client.ride(old, 3)
        zombie = await client.open(old)
        os.kill(first.child.pid, signal.SIGSTOP)
        try:
            for step in (4, 5):
                await zombie.send(pb.StreamRequest(timestep=timestep(step, number(99))))
            await client.ride(new, 8)
        finally:
            os.kill(first.child.pid, signal.SIGCONT)
        fault = await ended_without_a_reply(zombie)
        assert (fault.code, fault.reason) == (grpc.StatusCode.ABORTED, "SUPERSEDED")
        again = await client.open(new)
        assert client.numbers() == checked(values(5, 8))
        assert (await again.step(8, client.inputs[7])).reply.replayed
        await again.close()


# ---- the store's side: the first replica speaks to it through a proxy


@asynccontextmanager
async def behind_a_proxy(
    place: Place, directory: Path, **settings: object
) -> AsyncIterator[tuple[Proxy, grpc.aio.Channel, grpc.aio.Channel]]:
    """Two replicas; the calls of the first one pass the proxy."""
    async with (
        Proxy(directory, place.store_url) as proxy,
        replica(place, store_url=proxy.url, **settings) as first,
        replica(place) as second,
        dial(first.port) as one,
        dial(second.port) as other,
    ):
        yield proxy, one, other


@asynccontextmanager
async def held_commit(
    place: Place, directory: Path, client: Numbered
) -> AsyncIterator[tuple[Proxy, WireStream, grpc.aio.Channel]]:
    """The client's step 4 is on its way to the store, in a call that is kept back; and a second replica."""
    async with behind_a_proxy(place, directory, heartbeat=7.0) as (proxy, one, other):
        await client.ride(one, 3)
        stream = await client.open(one)
        proxy.strike(Fault.HOLD)
        await stream.send(pb.StreamRequest(timestep=timestep(4, number(99))))
        await until(lambda: proxy.held, "the commit")
        try:
            yield proxy, stream, other
        finally:
            proxy.let_through.set()


async def test_a_commit_that_comes_after_a_takeover_is_fenced(place: Place, tmp_path: Path) -> None:
    client = counting("s", 6, 8)
    async with held_commit(place, tmp_path, client) as (proxy, zombie, other):
        await client.ride(other, 8)
        proxy.let_through.set()
        assert (await ended_without_a_reply(zombie)).reason == "SUPERSEDED"
        assert (await client.call(other, 8)).replayed
    assert client.numbers() == checked(values(6, 8))


async def test_a_commit_that_comes_after_a_close_changes_nothing(place: Place, tmp_path: Path) -> None:
    client = counting("s", 7, 8)
    async with held_commit(place, tmp_path, client) as (proxy, zombie, other):
        closer = await client.open(other)
        response = await closer.ask(pb.StreamRequest(close=pb.Close(step=3)))
        assert response.closed.step == 3
        await closer.close()
        before = await stored(place, "s")
        proxy.let_through.set()
        assert (await ended_without_a_reply(zombie)).reason == "SESSION_CLOSED"
        assert await stored(place, "s") == before
        with pytest.raises(Ended) as refused:
            await client.open(other)
        assert refused.value.reason == "SESSION_CLOSED"


async def test_a_commit_that_comes_after_the_session_expired_does_not_revive_it(place: Place, tmp_path: Path) -> None:
    client = counting("s", 8, 8)
    async with held_commit(place, tmp_path, client) as (proxy, zombie, other), client_of(place) as store:
        await store.pexpire(session_key(place.tenant, "s"), 1)
        while await stored(place, "s"):
            pass
        proxy.let_through.set()
        fault = await ended_without_a_reply(zombie)
        assert (fault.code, fault.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_LOST")
        assert await stored(place, "s") == {}
        with pytest.raises(Ended) as refused:
            await client.open(other)
        assert refused.value.reason == "SESSION_EXPIRED_OR_LOST"
        assert await stored(place, "s") == {}


@pytest.mark.parametrize("fault", [Fault.STALL, Fault.HOLD], ids=["executed", "not yet executed"])
async def test_a_commit_in_doubt_is_settled_by_the_next_owner(place: Place, tmp_path: Path, fault: Fault) -> None:
    client = counting("s", 9, 8)
    async with behind_a_proxy(place, tmp_path) as (proxy, one, other):
        await client.ride(one, 3)
        stream = await client.open(one)
        proxy.requests.clear()
        proxy.strike(fault)
        await stream.send(pb.StreamRequest(timestep=client.message(4)))
        if fault is Fault.HOLD:
            await until(lambda: proxy.held, "the commit")
        else:
            async with client_of(place) as store:
                while await store.hget(session_key(place.tenant, "s"), "n") != b"4":
                    pass
        await client.ride(other, 8)
        proxy.let_through.set()
        assert [reply.replayed for reply in client.replies[3:]] == [fault is Fault.STALL] + [False] * 4
        assert client.numbers() == checked(values(9, 8))
        stream.call.cancel()


async def test_an_unnumbered_call_whose_commit_is_in_doubt_is_not_run_again(place: Place, tmp_path: Path) -> None:
    """Its first commit was executed, its second copy finds another owner: run again it would count twice."""
    open_ = pb.Open(session_id="s", model="checker", unnumbered=True)

    async def call(channel: grpc.aio.Channel, value: int) -> pb.Reply:
        request = pb.StepRequest(open=open_, timestep=timestep(0, number(value)))
        response: pb.StepResponse = await cell_service_pb2_grpc.CellServiceStub(channel).Step(request, timeout=20)
        return response.reply

    async with behind_a_proxy(place, tmp_path) as (proxy, one, other):
        await call(one, 1)
        proxy.strike(Fault.DROP, Fault.HOLD)
        calling = asyncio.create_task(call(one, 2))
        await until(lambda: proxy.held, "the second copy")
        reply = await call(other, 3)
        proxy.let_through.set()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await calling
        assert fault_of(error.value).reason == "STORE_UNAVAILABLE"
        last = await call(other, 4)
        assert (reply.step, last.step) == (3, 4)
        assert int(arrays(last.outputs)["y"][0]) == checked([1, 2, 3, 4])[-1]


async def test_a_commit_in_doubt_ends_the_session_and_its_stream(place: Place, tmp_path: Path) -> None:
    """Only the store knows whether step 4 was committed: the next claim asks it."""
    client = counting("s", 11, 8)
    async with behind_a_proxy(place, tmp_path, store_timeout=0.2, commit_deadline=0.5) as (proxy, one, other):
        await client.ride(one, 3)
        stream = await client.open(one)
        proxy.storm(repeat(Fault.STALL))
        response = await stream.ask(pb.StreamRequest(timestep=client.message(4)))
        assert response.WhichOneof("kind") == "notice", response
        fault = await stream.ended()
        assert (fault.code, fault.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        proxy.strike()
        await client.ride(other, 8)
        assert client.replies[3].replayed
        assert client.numbers() == checked(values(11, 8))


@pytest.mark.parametrize("seed", range(3))
async def test_streams_go_on_while_the_way_to_the_store_is_stormy(
    place: Place, test_models: Path, tmp_path: Path, seed: int
) -> None:
    faults = (Fault.DROP, Fault.CUT, Fault.CUT_REQUEST, Fault.SHIFT, Fault.DELAY)
    async with behind_a_proxy(place, tmp_path) as (proxy, one, _):
        clients = [counting(f"c{at}", at, 30) for at in range(10)] + [floating(f"f{at}", at, 30) for at in range(10)]
        proxy.storm(chaos(seed, 0.3, faults))
        await asyncio.gather(*(client.ride(one, 30) for client in clients))
        assert proxy.struck
        proxy.strike()
    for client in clients:
        assert_uninterrupted(test_models, client)
        assert not client.replayed


async def test_a_full_store_refuses_a_step_and_takes_it_later(own_place: Place, own_store: EmbeddedStore) -> None:
    async with replicas(own_place, 1) as (channel,), client_of(own_place) as store:
        client = counting("s", 10, 3)
        stream = await client.open(channel)
        client.take(await stream.replied(1, client.inputs[0]))
        await store.config_set("maxmemory", "1mb")
        for _ in range(3):
            fault = await stream.refused(pb.StreamRequest(timestep=client.message(2)))
            assert (fault.code, fault.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
        assert (await stream.step(1, client.inputs[0])).reply.replayed
        await store.config_set("maxmemory", "0")
        client.take(await stream.replied(2, client.inputs[1]))
        await store.config_set("maxmemory", "1mb")
        assert (await stream.ask(pb.StreamRequest(close=pb.Close(step=2)))).closed.step == 2
        assert client.numbers() == checked(values(10, 2))
        await stream.close()


@asynccontextmanager
async def client_of(place: Place) -> AsyncIterator[Redis]:
    """A client of the store."""
    client: Redis = Redis.from_url(place.store_url)
    try:
        yield client
    finally:
        await client.aclose()


async def stored(place: Place, session_id: str) -> dict[bytes, bytes]:
    """Every field of a session."""
    async with client_of(place) as store:
        fields: Any = await store.hgetall(session_key(place.tenant, session_id))
        return dict(fields)


# ---- the real model


@pytest.fixture
async def silero(store_url: str, models_cache: Path, place: Place) -> AsyncIterator[Server]:
    """A replica with Silero VAD and its twins."""
    real = Place(store_url, place.tenant, (models_cache,))
    async with replica(real, load=",".join((*TWINS, NEAR_TWIN))) as server:
        yield server


async def test_the_twins_of_silero_give_the_same_probabilities_on_a_stream_and_in_calls(silero: Server) -> None:
    frames = list(speech("0870")[:60])
    heard: dict[tuple[str, str], np.ndarray] = {}
    async with dial(silero.port) as channel:

        async def stream(model: str) -> None:
            client = Numbered(f"stream-{model}", frames, model)
            await client.ride(channel, len(frames))
            heard[model, "stream"] = probabilities(client)

        async def calls(model: str) -> None:
            client = Numbered(f"calls-{model}", frames, model)
            for step in range(1, len(frames) + 1):
                client.take(await client.call(channel, step))
            heard[model, "calls"] = probabilities(client)

        for model in (*TWINS, NEAR_TWIN):
            await stream(model)
            await calls(model)
    first = heard["silero_vad", "stream"]
    assert first.max() > 0.5 > first.min()
    for (model, _), other in heard.items():
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-6 if model == NEAR_TWIN else 0)


def probabilities(client: Numbered) -> np.ndarray:
    """The one number of each reply."""
    return np.concatenate([next(iter(arrays(reply.outputs).values())).reshape(1) for reply in client.replies])
