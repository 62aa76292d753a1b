"""The life of a replica: bad settings, start, readiness, drain, a store that goes, comes back, or is another one."""

import asyncio
import os
import shutil
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from subprocess import run as run_program
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import resume_pb2
from models.cells import checked
from service import metrics, settings
from service import server as server_module
from service.__main__ import EXIT_BAD_SETTINGS, run
from service.server import SERVICES, Server
from service.store import store as store_module
from tests.harness import (
    Fault,
    Place,
    ReplicaProcess,
    WireStream,
    arrays,
    fault,
    fault_of,
    ipv6,
    number,
    open_fault,
    replica,
)
from tests.hostile import call, good, store_client, until, writes_held
from tests.many import WireMany, numbers

on_the_module_loop = pytest.mark.asyncio(loop_scope="module")

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
FAR = 3600.0
"""Seconds that no test waits for: what needs them fails by its timeout."""
QUICK = {"store_timeout": 0.2, "commit_deadline": 0.3}


@pytest.fixture(scope="module")
def place(store_url: str, test_models: Path) -> Place:
    return Place(store_url, f"t{uuid.uuid4().hex[:12]}", (test_models,))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(place: Place) -> AsyncIterator[Server]:
    async with replica(place) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with connected(server) as channel:
        yield channel


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is looked at all the time, so that no test waits for the next look."""
    monkeypatch.setattr(server_module, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(store_module, "POLICY_SECONDS", 0.0)


def connected(server: Server) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")


async def health(channel: grpc.aio.Channel, name: str = "") -> int:
    """The serving status of a name."""
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


async def until_health(channel: grpc.aio.Channel, status: int) -> None:
    async def told() -> bool:
        return await health(channel) == status

    await until(told)


async def fetch(server: Server, path: str) -> tuple[int, str]:
    """What the admin port answers."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.admin_port}{path}") as response:
            return response.status, await response.text()


def answer(reply: pb.Reply) -> int:
    return int(arrays(reply.outputs)["y"][0])


async def begun(channel: grpc.aio.Channel, name: str, steps: int = 2) -> tuple[WireStream, pb.Opened, bytes]:
    """A stream whose session stands at `steps`, what Opened told, and the last h."""
    stream = WireStream(channel)
    opened = await stream.open(name, create_token=b"t" * 16)
    reply = pb.Reply()
    for step in range(1, steps + 1):
        reply = await stream.replied(step, number(step * 7))
    return stream, opened, reply.h


def resume(opened: pb.Opened, step: int, h: bytes) -> dict[str, Any]:
    """The fields of an Open that goes on from there."""
    point = resume_pb2.ResumePoint(
        received=resume_pb2.Checkpoint(step=step, h=h), durable_step=step, store_id=opened.store_id
    )
    return {
        "model": "checker",
        "create_token": b"t" * 16,
        "mode": pb.OPEN_MODE_RESUME,
        "found_epoch": opened.epoch,
        "resume_point": point,
    }


# Bad settings


BAD_SETTINGS = [
    ({"port": "many"}, "CELLWIRE_PORT"),
    ({"port": "65536"}, "CELLWIRE_PORT"),
    ({"ring": "8", "window": "8"}, "window"),
    ({"heartbeat": "15"}, "heartbeat"),
    ({"idle_ttl": "60"}, "idle_ttl"),
    ({"host": "0.0.0.0"}, "insecure_bind"),
    ({"store_url": "http://user:password@localhost"}, "store_url"),
    ({"store_url": "redis+proxy://user:password@localhost"}, "store_url"),
    ({"store_ca": "/nowhere/ca.pem"}, "CELLWIRE_STORE_CA"),
    ({"tenant": "a/b"}, "CELLWIRE_TENANT"),
    ({"tenant": "a}b"}, "CELLWIRE_TENANT"),
    ({"lease": "nan"}, "CELLWIRE_LEASE"),
    ({"commit_deadline": "-1"}, "CELLWIRE_COMMIT_DEADLINE"),
    ({"port": "x", "ring": "1"}, "CELLWIRE_RING"),
]


@pytest.mark.parametrize(("values", "named"), BAD_SETTINGS, ids=lambda value: str(value)[:40])
def test_bad_settings_are_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], values: dict[str, str], named: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"CELLWIRE_{name.upper()}", value)
    assert run({}) == EXIT_BAD_SETTINGS == 3
    told = capsys.readouterr().err
    assert told.startswith("cellwire: ")
    assert told.count("\n") == 1
    assert named in told
    assert "password" not in told


UNUSABLE = [
    ({"port": "many"}, "CELLWIRE_PORT", 1),
    ({"store_url": "redis://user:password@localhost:many"}, "CELLWIRE_STORE_URL", 1),
    ({"store_url": "redis+sentinel://user:password@localhost:26379"}, "CELLWIRE_STORE_URL", 1),
    ({"store_url": "unix:///nowhere", "load": "checker,nothing"}, "nothing", None),
    ({"store_url": "unix:///nowhere", "load": "checker", "port_file": "/nowhere/port"}, "CELLWIRE_PORT_FILE", None),
]


@pytest.mark.parametrize(
    ("values", "named", "lines"), UNUSABLE, ids=["type", "url", "no-service", "model", "port-file"]
)
def test_a_replica_that_cannot_start_exits_with_3_and_says_why_in_its_last_line(
    test_models: Path, values: dict[str, object], named: str, lines: int | None
) -> None:
    environment = Place("unix:///nowhere", "t", (test_models,)).environment(**values)
    ended = run_program(
        [sys.executable, "-m", "service"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == EXIT_BAD_SETTINGS
    assert ended.stdout == ""
    *others, last = ended.stderr.splitlines()
    assert last.startswith("cellwire: ")
    assert named in last
    assert lines in (None, len(others) + 1)
    assert "Traceback" not in ended.stderr
    assert "password" not in ended.stderr


@on_the_module_loop
@pytest.mark.parametrize("which", ["port", "admin_port"])
async def test_a_port_that_is_taken_is_told(server: Server, place: Place, which: str) -> None:
    with pytest.raises(settings.CannotStart, match=f":{getattr(server, which)} cannot be bound"):
        await replica(place, **{which: getattr(server, which)}).__aenter__()


@ipv6
async def test_the_loopback_of_ipv6_needs_no_word_for_listening_without_tls(own_place: Place) -> None:
    async with replica(own_place, host="[::1]") as server:
        async with grpc.aio.insecure_channel(f"[::1]:{server.port}") as channel:
            assert await health(channel) == SERVING


def test_no_secret_is_in_the_text_of_the_settings() -> None:
    assert "hush" not in repr(settings.load(store_url="redis://user:hush@localhost", store_password="hush"))


# Standard services


@on_the_module_loop
async def test_every_service_and_model_has_a_name_in_health(channel: grpc.aio.Channel, server: Server) -> None:
    names = ("", "liveness", *SERVICES, *server.cells.names())
    assert len(names) == 2 + 3 + 2
    assert [await health(channel, name) for name in names] == [SERVING] * len(names)


@on_the_module_loop
async def test_watch_tells_the_health_of_a_name_and_that_another_is_unknown(channel: grpc.aio.Channel) -> None:
    for name, status in (("", SERVING), ("checker", SERVING), ("nothing", 3)):
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))
        assert (await call.read()).status == status
        call.cancel()


@on_the_module_loop
async def test_reflection_lists_the_services_and_describes_them(channel: grpc.aio.Channel) -> None:
    async def asked() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="cellwire.v1.CellService")

    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked())
    listed, described = [each async for each in answers]
    names = {each.name for each in listed.list_services_response.service}
    assert names == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    files = [FileDescriptorProto.FromString(raw) for raw in described.file_descriptor_response.file_descriptor_proto]
    assert "cellwire/v1/cell_service.proto" in {file.name for file in files}


@on_the_module_loop
async def test_the_admin_port_answers(server: Server) -> None:
    assert await fetch(server, "/healthz") == (200, "ok\n")
    assert await fetch(server, "/readyz") == (200, "ready\n")
    assert (await fetch(server, "/nothing"))[0] == 404


@on_the_module_loop
async def test_metrics_can_be_parsed_and_name_no_session(
    channel: grpc.aio.Channel, server: Server, place: Place
) -> None:
    name = uuid.uuid4().hex
    stream, _, _ = await begun(channel, name)
    await stream.close()
    status, text = await fetch(server, "/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for expected in (
        "cellwire_step_seconds",
        "cellwire_batch_size",
        "cellwire_commit_seconds",
        "cellwire_sessions_opened",
        "cellwire_live_sessions",
        "cellwire_store_up",
        "cellwire_refused",
        "grpc_server_handled",
        "grpc_server_msg_received",
    ):
        assert expected in families
        assert families[expected].documentation
    (up,) = families["cellwire_store_up"].samples
    assert up.value == 1
    assert name not in text
    assert place.tenant not in text


def steps_timed() -> float:
    """Messages, in this process, whose time to the reply was told."""
    [family] = metrics.STEP_SECONDS.collect()
    return sum(sample.value for sample in family.samples if sample.name == "cellwire_step_seconds_count")


@on_the_module_loop
async def test_the_time_to_a_reply_is_told_of_streams_of_many_sessions_on_one_and_of_calls(
    channel: grpc.aio.Channel,
) -> None:
    before = steps_timed()
    stream, _, _ = await begun(channel, uuid.uuid4().hex, steps=2)
    await stream.close()
    assert steps_timed() - before == 2
    many = WireMany(channel)
    await many.open({1: uuid.uuid4().hex, 2: uuid.uuid4().hex})
    await many.step([1, 2], [1, 1], numbers(7, 7))
    await many.end()
    assert steps_timed() - before == 4
    await call(channel, pb.Open(session_id=uuid.uuid4().hex, model="checker"), good("checker", 1))
    assert steps_timed() - before == 5


@on_the_module_loop
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_has_nothing_to_say_about_the_metrics(server: Server) -> None:
    _, text = await fetch(server, "/metrics")
    checked_ = await asyncio.to_thread(
        run_program, ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    assert (checked_.returncode, checked_.stdout + checked_.stderr) == (0, "")


# The store: policy


@pytest.mark.parametrize(
    ("option", "wrong", "right"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendonly", "no", "yes")],
)
async def test_a_store_that_may_lose_sessions_is_not_ready(
    own_store: EmbeddedStore, own_place: Place, often: None, option: str, wrong: str, right: str
) -> None:
    async with store_client(own_store.url) as store:
        await store.config_set(option, wrong)
        async with replica(own_place) as server, replica(own_place, ephemeral_store=True) as ephemeral:
            async with connected(server) as channel, connected(ephemeral) as other:
                assert await health(channel) == await health(channel, "checker") == NOT_SERVING
                assert await fetch(server, "/readyz") == (503, "not ready\n")
                assert await health(channel, "liveness") == SERVING
                assert (await fetch(server, "/healthz"))[0] == 200
                assert await health(other) == SERVING
                await store.config_set(option, right)
                await until_health(channel, SERVING)
                # while it serves, with the whole grace of a failover before it
                await store.config_set(option, wrong)
                await until_health(channel, NOT_SERVING)
                assert await health(other) == SERVING


async def test_a_full_store_is_ready(own_store: EmbeddedStore, own_place: Place, often: None) -> None:
    async with replica(own_place, store_grace=0) as server, connected(server) as channel:
        async with store_client(own_store.url) as store:
            stream, _, _ = await begun(channel, "s")
            await store.config_set("maxmemory", "1mb")
            refused = await stream.step(3, number(21))
            assert fault(refused.refused.status).reason == "STORE_FULL"

            async def looks() -> int:
                return int((await store.info("commandstats"))["cmdstat_get"]["calls"])

            before = await looks()

            async def looked_at_again() -> bool:
                return await looks() > before + 2

            await until(looked_at_again)
            assert await health(channel) == SERVING
            await store.config_set("maxmemory", "0")
            assert answer(await stream.replied(3, number(21))) == checked([7, 14, 21])[-1]
            await stream.close()


# The store: gone, back, another one


async def test_a_replica_starts_without_its_store_and_is_ready_once_that_is_there(
    own_store: EmbeddedStore, own_place: Place, often: None
) -> None:
    own_store.kill()
    async with replica(own_place, **QUICK) as server, connected(server) as channel:
        assert await health(channel) == NOT_SERVING
        assert await health(channel, "liveness") == SERVING
        told = await open_fault(channel, session_id="s", model="checker")
        assert (told.code, told.reason) == (UNAVAILABLE, "STORE_UNAVAILABLE")
        assert told.retry_seconds
        own_store.start()
        await until_health(channel, SERVING)
        stream, opened, _ = await begun(channel, "s")
        assert opened.created
        assert opened.store_id
        await stream.close()


async def test_a_store_that_goes_and_comes_back_loses_nothing(
    own_store: EmbeddedStore, own_place: Place, often: None
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(replica(own_place, store_grace=0.05, **QUICK))
        patient = await stack.enter_async_context(replica(own_place, store_grace=FAR, **QUICK))
        channel = await stack.enter_async_context(connected(server))
        other = await stack.enter_async_context(connected(patient))
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watched.read()).status == SERVING
        stream, opened, h = await begun(channel, "s")
        step = pb.Open(session_id="call", model="checker", create_token=b"t" * 16)
        await call(channel, step, good("checker", 1))

        own_store.kill()
        await stream.send(pb.StreamRequest(timestep=good("checker", 3)))
        told = await stream.ended()
        assert (told.code, told.reason) == (UNAVAILABLE, "STORE_UNAVAILABLE")
        assert told.retry_seconds
        for refused in (
            await open_fault(channel, session_id="s", **resume(opened, 2, h)),
            await call_fault(channel, step, good("checker", 2)),
        ):
            assert (refused.code, refused.reason) == (UNAVAILABLE, "STORE_UNAVAILABLE")
            assert refused.retry_seconds
        assert (await watched.read()).status == NOT_SERVING
        assert await fetch(server, "/readyz") == (503, "not ready\n")
        assert await health(channel, "liveness") == SERVING
        assert await health(other) == SERVING  # a failover may take its time

        own_store.start()
        assert (await watched.read()).status == SERVING
        assert (await fetch(server, "/readyz"))[0] == 200
        newer = WireStream(channel)
        again = await newer.open("s", **resume(opened, 2, h))
        assert (again.created, again.step, again.store_id) == (False, 2, opened.store_id)
        assert answer(await newer.replied(3, number(21))) == checked([7, 14, 21])[-1]
        response = await call(other, step, good("checker", 2))
        assert answer(response.reply) == checked([7, 14])[-1]
        await newer.close()
        watched.cancel()


async def call_fault(channel: grpc.aio.Channel, open_: pb.Open, timestep: pb.Timestep) -> Fault:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(channel, open_, timestep)
    return fault_of(error.value)


def empty(store: EmbeddedStore) -> None:
    """Another store takes the place of this one."""
    store.kill()
    shutil.rmtree(store.directory / "appendonlydir")
    store.start()


async def test_a_store_that_comes_back_empty_is_told_and_used(own_store: EmbeddedStore, own_place: Place) -> None:
    async with replica(own_place, **QUICK) as server, connected(server) as channel:
        stream, opened, h = await begun(channel, "s")
        idle, _, _ = await begun(channel, "idle")
        empty(own_store)
        # before the replica looked at the store by itself
        lost = await open_fault(channel, session_id="s", **resume(opened, 2, h))
        assert (lost.code, lost.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_LOST")
        for ended in (await stream.ended(), await idle.ended()):
            assert (ended.code, ended.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_LOST")
        newer, again, _ = await begun(channel, "s", steps=1)
        assert again.created
        assert again.store_id not in (b"", opened.store_id)
        assert await health(channel) == SERVING
        losses = [
            sample.value
            for family in text_string_to_metric_families((await fetch(server, "/metrics"))[1])
            for sample in family.samples
            if sample.name == "cellwire_store_losses_total"
        ]
        assert losses[0] >= 1
        assert answer(await newer.replied(2, number(14))) == checked([7, 14])[-1]
        await newer.close()


async def test_a_store_that_was_emptied_while_it_ran_is_told(
    own_store: EmbeddedStore, own_place: Place, often: None
) -> None:
    async with replica(own_place) as server, connected(server) as channel:
        stream, opened, h = await begun(channel, "s")
        async with store_client(own_store.url) as store:
            await store.flushall()  # the test's own store
        ended = await stream.ended()
        assert (ended.code, ended.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_LOST")
        lost = await open_fault(channel, session_id="s", **resume(opened, 2, h))
        assert (lost.code, lost.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_LOST")
        await until_health(channel, SERVING)


async def test_a_step_into_an_emptied_store_is_told_and_creates_nothing(
    own_store: EmbeddedStore, own_place: Place
) -> None:
    async with replica(own_place) as server, connected(server) as channel:
        stream, _, _ = await begun(channel, "s")
        async with store_client(own_store.url) as store:
            await store.flushall()  # the test's own store
            await stream.send(pb.StreamRequest(timestep=good("checker", 3)))
            ended = await stream.ended()
            assert (ended.code, ended.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_LOST")
            assert not await store.exists(b"cw:{own/s}")


# Drain


@pytest.fixture
def processes() -> Iterator[Children]:
    with Children() as children:
        yield children


async def test_a_drain_finishes_what_is_in_hand_and_hands_the_sessions_over(
    own_store: EmbeddedStore, own_place: Place, processes: Children, tmp_path: Path
) -> None:
    leaving = ReplicaProcess(processes, own_place, tmp_path, "leaving", drain_seconds=FAR)
    async with (
        replica(own_place) as staying,
        grpc.aio.insecure_channel(await asyncio.to_thread(leaving.target)) as channel,
        connected(staying) as other,
    ):
        idle, idle_opened, idle_h = await begun(channel, "idle")
        busy, busy_opened, _ = await begun(channel, "busy")
        async with writes_held(own_store.url) as waiting:
            await busy.send(pb.StreamRequest(timestep=good("checker", 3)))
            await until(waiting)
            leaving.child.send_signal(signal.SIGTERM)
            await until_health(channel, NOT_SERVING)
            refused = await open_fault(channel, session_id="new", model="checker")
            unary = await call_fault(channel, pb.Open(session_id="new", model="checker"), good("checker", 1))
            notice = await idle.read()
        drained = [fault(notice.notice.status), refused, unary]
        last = (await busy.read()).reply
        assert (last.step, last.durable_step, answer(last)) == (3, 3, checked([7, 14, 21])[-1])
        drained.append(fault((await busy.read()).notice.status))
        drained += [await idle.ended(), await busy.ended()]
        assert {(told.code, told.reason) for told in drained} == {(UNAVAILABLE, "DRAINING")}
        assert all(told.retry_seconds is not None for told in drained)
        assert await asyncio.to_thread(leaving.child.wait, 60) == 0
        # by id alone, which a lease that is still held would refuse
        for name, opened, step, h in (("idle", idle_opened, 2, idle_h), ("busy", busy_opened, 3, last.h)):
            newer = WireStream(other)
            again = await newer.open(name, mode=pb.OPEN_MODE_RESUME, found_epoch=opened.epoch)
            assert (again.step, again.h) == (step, h)
            expected = checked([7 * at for at in range(1, step + 2)])[-1]
            assert answer(await newer.replied(step + 1, number(7 * (step + 1)))) == expected
            await newer.close()


async def test_a_second_signal_ends_the_grace(
    own_store: EmbeddedStore, own_place: Place, processes: Children, tmp_path: Path
) -> None:
    patient = {"drain_seconds": FAR, "store_timeout": FAR, "commit_deadline": FAR}
    leaving = ReplicaProcess(processes, own_place, tmp_path, "leaving", **patient)
    async with grpc.aio.insecure_channel(await asyncio.to_thread(leaving.target)) as channel:
        busy, _, _ = await begun(channel, "busy")
        async with writes_held(own_store.url) as waiting:
            await busy.send(pb.StreamRequest(timestep=good("checker", 3)))
            await until(waiting)
            leaving.child.send_signal(signal.SIGINT)
            await until_health(channel, NOT_SERVING)
            leaving.child.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(leaving.child.wait, 60) == 0
        busy.call.cancel()


async def test_what_a_second_signal_cuts_off_is_handed_over_if_the_store_answers(
    own_store: EmbeddedStore, own_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STOP_GRACE", FAR)
    leaving = replica(own_place, drain_seconds=FAR)
    server = await leaving.__aenter__()

    async def cut_off() -> bool:
        return not server.servicer.live

    async with connected(server) as channel:
        busy, opened, _ = await begun(channel, "busy")
        async with writes_held(own_store.url) as waiting:
            await busy.send(pb.StreamRequest(timestep=good("checker", 3)))
            await until(waiting)
            server.stop()
            server.stop()
            ending = asyncio.create_task(leaving.__aexit__(None, None, None))
            await until(cut_off)
        await ending
    async with replica(own_place) as staying, connected(staying) as channel:
        newer = WireStream(channel)
        # by id alone, which a lease that is still held would refuse
        assert (await newer.open("busy", mode=pb.OPEN_MODE_RESUME, found_epoch=opened.epoch)).step == 3
        await newer.close()


async def test_a_drain_without_its_store_ends(
    own_store: EmbeddedStore, own_place: Place, processes: Children, tmp_path: Path
) -> None:
    leaving = ReplicaProcess(processes, own_place, tmp_path, "leaving", drain_seconds=FAR, **QUICK)
    async with grpc.aio.insecure_channel(await asyncio.to_thread(leaving.target)) as channel:
        idle, _, _ = await begun(channel, "idle")
        own_store.kill()
        leaving.child.send_signal(signal.SIGTERM)
        told = await idle.ended()
        assert (told.code, told.reason) == (UNAVAILABLE, "DRAINING")
        assert await asyncio.to_thread(leaving.child.wait, 60) == 0


async def test_an_open_watch_and_a_stream_without_open_do_not_hold_a_drain(own_place: Place) -> None:
    leaving = replica(own_place, drain_seconds=FAR)
    server = await leaving.__aenter__()
    async with connected(server) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watched.read()).status == SERVING
        silent = WireStream(channel)
        await health(channel)  # behind the headers of the silent stream
        await leaving.__aexit__(None, None, None)
        assert (await watched.read()).status == NOT_SERVING
        assert await silent.call.code() is UNAVAILABLE
