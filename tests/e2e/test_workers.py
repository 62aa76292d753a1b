"""Several workers behind one port: sessions move between them, they die and come back, and all of them end together."""

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cellwire.cli.children import Children, stop
from cellwire.cli.embedded import EmbeddedStore
from cellwire.client import Client
from cellwire.resume import ResumePoint
from cellwire.v1 import cell_service_pb2 as pb
from models.cells import checked
from service import workers as workers_module
from service.port import hold
from service.settings import load
from tests.access import users
from tests.harness import Place, ReplicaProcess, WireStream, arrays, fault, fault_of, number, small_models
from tests.hostile import good, writes_held
from tests.waiting import eventually, until, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

FAR = 3600.0
"""Seconds that no test waits for."""
INPUTS = [(31 * n) % 10007 for n in range(1, 201)]
SPREAD = 24
"""Connections that are made; that all of them come to the same of two workers does not happen."""
Metrics = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Group(ReplicaProcess):
    """A replica of two workers."""

    def __init__(self, children: Children, place: Place, directory: Path, **settings: object) -> None:
        name = f"group-{uuid.uuid4().hex[:8]}"
        super().__init__(children, place, directory, name, **{"workers": 2, "log_format": "json", **settings})

    def told(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log about an event."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def pids(self) -> dict[int, int]:
        """Of the workers, by their numbers."""
        return {line["worker"]: line["pid"] for line in self.told("worker.serving")}

    def family(self) -> list[int]:
        """All processes that it has started and that are not gone."""
        return list(map(int, Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()))

    async def fetch(self, path: str, worker: int | None = None) -> tuple[int, str]:
        """What its admin port answers, or a worker's own."""
        if worker is None:
            (line,) = self.told("workers.started")
        else:
            line = [line for line in self.told("server.started") if line["worker"] == worker][-1]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{line['admin_port']}/{path}") as response:
                return response.status, await response.text()

    async def metrics(self, worker: int | None = None) -> Metrics:
        """Samples by name and labels."""
        _, text = await self.fetch("metrics", worker)
        families = text_string_to_metric_families(text)
        return {(s.name, tuple(s.labels.items())): s.value for family in families for s in family.samples}

    async def value(self, name: str, worker: int | None = None) -> float:
        """The sum of the samples of a name."""
        return sum(value for (sample, _), value in (await self.metrics(worker)).items() if sample == name)

    async def by_worker(self, name: str) -> dict[int, float]:
        """As `value`, of each worker."""
        return {worker: await self.value(name, worker) for worker in self.pids()}


def dial(target: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


def gone(pids: list[int]) -> bool:
    """No process of these runs any more; one that nobody has waited for yet does not run."""
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return False
        except (FileNotFoundError, ProcessLookupError):
            pass
    return True


@pytest.fixture(scope="module")
def store(children: Children) -> Iterator[EmbeddedStore]:
    """One kind of store is enough for what is shown here."""
    with EmbeddedStore(children, users=users()) as store:
        yield store


@pytest.fixture
def place(store: EmbeddedStore, test_models: Path) -> Place:
    return Place(store.url, f"t{uuid.uuid4().hex[:12]}", (test_models,))


@pytest.fixture
def processes() -> Iterator[Children]:
    with Children() as processes:
        yield processes


@pytest.fixture
def group(processes: Children, place: Place, tmp_path: Path) -> Group:
    """Two workers that serve."""
    group = Group(processes, place, tmp_path)
    group.target()
    return group


# Sessions


async def test_unary_steps_over_many_connections_stay_exact_and_are_added_up(group: Group) -> None:
    answers, point = [], ResumePoint.new("u", "checker")
    for x in INPUTS[:SPREAD]:
        async with Client(group.target()) as client:
            before = point
            reply, point = await client.step(before, number(x))
        async with Client(group.target()) as client:
            again, _ = await client.step(before, number(x))  # as if the reply had been dropped
        assert (reply.replayed, again.replayed) == (False, True)
        assert (again.step, again.outputs) == (reply.step, reply.outputs)
        answers.append(int(reply.outputs["y"][0]))
    assert answers == checked(INPUTS[:SPREAD])
    sent = await group.by_worker("cellwire_commit_size_sum")
    assert min(sent.values()) > 0
    assert sum(sent.values()) == await group.value("cellwire_commit_size_sum")
    # what a worker kept of a session is fenced where the session has been on the other one since
    assert sum(sent.values()) - await group.value("cellwire_fenced_total") == SPREAD
    assert await group.value("cellwire_replays_total") == SPREAD
    assert await group.value("cellwire_workers") == 2
    assert await group.value("cellwire_store_up") == 1
    assert await group.fetch("healthz") == (200, "ok\n")
    assert await group.fetch("readyz") == (200, "ready\n")


async def test_a_stream_goes_on_at_whichever_worker_it_is_opened_again(group: Group) -> None:
    answers: list[int] = []
    holders: set[int] = set()
    point: ResumePoint | None = None
    for turn in range(SPREAD):
        async with Client(group.target()) as client:
            async with client.session("s", model="checker", resume=point, keep=True) as session:
                replies = [await session.step(number(x)) for x in INPUTS[5 * turn : 5 * turn + 5]]
                answers += [int(reply.outputs["y"][0]) for reply in replies]
                live = await group.by_worker("cellwire_live_sessions")
                assert sum(live.values()) == 1
                holders |= {worker for worker, sessions in live.items() if sessions}
                point = session.resume_point
    assert answers == checked(INPUTS[: 5 * SPREAD])
    assert holders == {1, 2}


async def test_caps_are_each_worker_s(processes: Children, place: Place, tmp_path: Path) -> None:
    group = Group(processes, place, tmp_path, max_streams=1)
    outcomes: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        for turn in range(SPREAD):
            stream = WireStream(await stack.enter_async_context(dial(group.target())))
            try:
                await stream.open(f"s{turn}")
                outcomes["opened"] += 1
            except grpc.aio.AioRpcError as error:
                outcomes[fault_of(error).reason] += 1
    assert outcomes == {"opened": 2, "QUOTA": SPREAD - 2}


# A worker that dies


async def test_the_loss_of_a_worker_is_not_noticed_and_another_one_takes_its_place(group: Group) -> None:
    async def ride(name: str) -> tuple[list[int], int]:
        async with Client(group.target()) as client, client.session(name, model="checker") as session:
            answers = []
            async for reply in session.stream(number(x) for x in INPUTS):
                answers.append(int(reply.outputs["y"][0]))
                if name == "s0" and reply.step == 77:
                    live = await group.by_worker("cellwire_live_sessions")
                    before.update(await group.metrics())
                    os.kill(group.pids()[max(live, key=lambda worker: live[worker])], signal.SIGKILL)
            return answers, len(session.resumptions)

    async def watch() -> None:
        """Nothing that is counted ever falls."""
        last: Metrics = {}
        while True:
            now = await group.metrics()
            counted = {key: value for key, value in now.items() if key[0].endswith(("_total", "_count", "_bucket"))}
            assert all(counted[key] >= value for key, value in last.items())
            last = counted
            await asyncio.sleep(0.01)

    before: Metrics = {}
    first = group.pids()
    watching = asyncio.create_task(watch())
    rides = await asyncio.gather(*(ride(f"s{turn}") for turn in range(8)))
    assert [answers for answers, _ in rides] == [checked(INPUTS)] * 8
    assert sum(resumed for _, resumed in rides) > 0

    async def whole() -> bool:
        return await group.value("cellwire_workers") == 2

    await eventually(whole, "a new worker in the place of the killed one")
    assert not watching.done()
    watching.cancel()
    await asyncio.wait([watching])
    (died,) = group.told("worker.died")
    assert died["status"] == -signal.SIGKILL
    assert {worker for worker, pid in group.pids().items() if pid != first[worker]} == {died["worker"]}
    after = await group.metrics()
    steps = ("cellwire_step_seconds_count", ())
    assert after[steps] >= before[steps] > 0
    assert after["cellwire_worker_restarts_total", ()] == 1

    async def both_serve() -> bool:
        async with Client(group.target()) as client:
            await client.step(ResumePoint.new(uuid.uuid4().hex, "checker"), number(1))
        return min((await group.by_worker("cellwire_commit_size_sum")).values()) > 0

    await eventually(both_serve, "work for the new worker")


async def test_a_worker_that_cannot_start_again_is_tried_again_and_the_other_one_serves(
    processes: Children, store: EmbeddedStore, tmp_path: Path
) -> None:
    models, away = small_models(tmp_path / "models"), tmp_path / "away"
    group = Group(processes, Place(store.url, "again", (models,)), tmp_path)
    group.target()
    models.rename(away)
    os.kill(group.pids()[2], signal.SIGKILL)
    await until(lambda: group.told("worker.cannot_start"), "a worker that cannot start")
    assert await group.fetch("readyz") == (200, "ready\n")
    assert await group.value("cellwire_workers") == 1
    away.rename(models)
    await until(lambda: len(group.told("worker.serving")) == 3, "its next life")
    assert await group.value("cellwire_workers") == 2
    assert {line["worker"] for line in group.told("worker.cannot_start")} == {2}
    assert group.terminate() == 0


@pytest.mark.slow
async def test_a_worker_that_stands_still_is_left_out_and_killed_in_the_end(
    processes: Children, place: Place, tmp_path: Path
) -> None:
    group = Group(processes, place, tmp_path, drain_seconds=0)
    group.target()
    family = group.family()
    started = await group.value("cellwire_model_loads_total")
    os.kill(group.pids()[1], signal.SIGSTOP)
    assert await group.fetch("readyz") == (200, "ready\n")
    assert await group.value("cellwire_workers") == 1
    assert await group.value("cellwire_model_loads_total") == started == 4
    assert await asyncio.to_thread(group.terminate) == 1
    await until(lambda: gone(family), "the end of all processes")


async def test_a_worker_that_hangs_is_killed_and_started_again(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    def pids() -> dict[str, int | None]:
        return {process.name: process.pid for process in multiprocessing.active_children()}

    monkeypatch.setattr(workers_module, "LOOK_SECONDS", 0.1)
    values: dict[str, Any] = {"store_url": place.service_url, "tenant": place.tenant, "models": place.repositories}
    async with workers_module.Workers(load(**values, port=0, admin_port=0, workers=2)) as workers:
        running = asyncio.create_task(workers.run())

        async def serving() -> bool:
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{workers.admin_port}/metrics") as response:
                    return "\ncellwire_workers 2.0\n" in await response.text()

        await eventually(serving, "two workers")
        before = pids()
        assert before["worker-1"]
        os.kill(before["worker-1"], signal.SIGSTOP)
        await until(lambda: pids()["worker-2"] == before["worker-2"] and "worker-1" not in pids(), "its end")
        await eventually(serving, "two workers again")
        after = pids()
        assert after["worker-1"] != before["worker-1"]
        assert after["worker-2"] == before["worker-2"]
        workers.stop()
        assert await running == 0
    assert pids() == {}


# The end


async def test_a_signal_to_the_whole_group_of_processes_drains_every_worker_once(
    processes: Children, store: EmbeddedStore, place: Place, tmp_path: Path
) -> None:
    group = Group(processes, place, tmp_path, drain_seconds=FAR)
    target, family = group.target(), group.family()
    async with AsyncExitStack() as stack:
        streams = []
        for turn in range(SPREAD):
            stream = WireStream(await stack.enter_async_context(dial(target)))
            await stream.open(f"s{turn}")
            streams.append(stream)
        assert min((await group.by_worker("cellwire_live_sessions")).values()) > 0
        async with writes_held(store.url) as waiting:
            for stream in streams:
                await stream.send(pb.StreamRequest(timestep=good("checker", 1)))
            await eventually(waiting, "a commit that waits")
            os.killpg(os.getpgid(group.child.pid), signal.SIGINT)  # as a terminal does
            await until(lambda: len(group.told("server.draining")) == 2, "the drain of both workers")
        for stream in streams:
            reply = (await stream.read()).reply
            assert (reply.step, int(arrays(reply.outputs)["y"][0])) == (1, checked([7])[0])
            assert fault((await stream.read()).notice.status).reason == "DRAINING"
            assert (await stream.ended()).reason == "DRAINING"
    assert await asyncio.to_thread(group.child.wait, 60) == 0
    await until(lambda: gone(family), "the end of all processes")
    assert [line["cut_off"] for line in group.told("server.stopped")] == [0, 0]


async def test_a_second_signal_ends_the_grace_of_every_worker(
    processes: Children, store: EmbeddedStore, place: Place, tmp_path: Path
) -> None:
    patient = {"drain_seconds": FAR, "store_timeout": FAR, "commit_deadline": FAR}
    group = Group(processes, place, tmp_path, **patient)
    async with dial(group.target()) as channel:
        busy = WireStream(channel)
        await busy.open("busy")
        async with writes_held(store.url) as waiting:
            await busy.send(pb.StreamRequest(timestep=good("checker", 1)))
            await eventually(waiting, "a commit that waits")
            group.child.send_signal(signal.SIGTERM)
            await until(lambda: len(group.told("server.draining")) == 2, "the drain of both workers")
            group.child.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(group.child.wait, 60) == 0
        busy.call.cancel()


def test_a_signal_before_it_serves_ends_it(processes: Children, place: Place, tmp_path: Path) -> None:
    group = Group(processes, place, tmp_path)
    wait_until(lambda: len(group.family()) == 3, "two workers that start, and what watches over shared memory")
    family = group.family()
    assert group.terminate() == 0
    assert group.told("server.started") == []
    wait_until(lambda: gone(family), "the end of all processes")


def test_the_command_line_starts_as_many_as_it_is_told(processes: Children, place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "cellwire.cli", "serve", "--workers", "3"]
    serving = processes.start(command, log=log, env=place.environment(log_format="json"))
    wait_until(lambda: "workers.started" in log.read_text(), "three workers")
    assert '"workers": 3' in log.read_text()
    assert stop(serving, grace=40.0) == 0


async def test_no_worker_outlives_a_supervisor_that_is_killed(group: Group) -> None:
    family, target = group.family(), group.target()
    async with dial(target) as channel:
        idle = WireStream(channel)
        await idle.open("idle")
        group.kill()
        assert (await idle.ended()).reason == "DRAINING"
    await until(lambda: gone(family), "the end of all processes")
    hold("127.0.0.1", int(target.rpartition(":")[2])).close()


# What cannot start


def ended(place: Place, **settings: object) -> list[str]:
    """The lines on standard error of two workers that cannot start."""
    done = subprocess.run(
        [sys.executable, "-m", "service"],
        env={**os.environ, **place.environment(**{"workers": 2, **settings})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"load": "checker,nothing"}, "nothing"),
        ({"store_url": "redis://user:password@localhost:many"}, "CELLWIRE_STORE_URL"),
        ({"port_file": "/nowhere/port"}, "CELLWIRE_PORT_FILE"),
    ],
    ids=["model", "url", "port-file"],
)
def test_what_no_worker_can_serve_with_is_said_once_and_last(
    place: Place, settings: dict[str, object], named: str
) -> None:
    lines = ended(place, **settings)
    (told,) = [line for line in lines if line.startswith("cellwire: ")]
    assert told == lines[-1]
    assert named in told
    assert "password" not in told


@pytest.mark.parametrize("settings", [{"ring": 1}, {"workers": -1}], ids=str)
def test_bad_settings_are_said_in_one_line(place: Place, settings: dict[str, object]) -> None:
    (line,) = ended(place, **settings)
    assert line.startswith(f"cellwire: CELLWIRE_{next(iter(settings)).upper()}: ")


@pytest.mark.parametrize("which", ["port", "admin_port"])
def test_a_port_that_somebody_listens_on_is_told_in_one_line(place: Place, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (line,) = ended(place, **{which: port})
    assert line.endswith(f"port 127.0.0.1:{port} cannot be bound")


def test_the_port_of_other_workers_is_not_joined(group: Group, place: Place) -> None:
    (line,) = ended(place, port=group.target().rpartition(":")[2])
    assert line.endswith("cannot be bound")
