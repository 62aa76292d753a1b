"""Goodput under overload: what a replica still answers in time when four times as much is asked of it as it can do.

The model takes about 4 ms a run of at most 8 sessions. Gateways send for many sensors on one stream each, at fixed
times, whether they were answered or not, and tell with each timestep how long it is of use; a sensor that is refused
keeps quiet for the time that it was told, as the client library does, and what was due meanwhile counts as not
answered; measured once more with sensors that send on regardless of what they were told.
Goodput: replies a second that came within 100 ms of the time at which their timestep was to be sent. Capacity: the
highest rate of which nearly all are good, sought downwards from what sensors reach that wait for each reply. Knows a
replica's address and its health service; the load runs in processes of its own.
"""

import argparse
import asyncio
import heapq
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime
import uvloop
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import processes
from benchmarks.servers import CLIENT_CORE, SERVER_CORE
from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc, tensor_pb2
from models import cells

GOOD_SECONDS = 0.1
TIMEOUT = 0.08
"""Seconds that a message tells: begun later, it would not be answered in time."""
INPUTS, MAX_BATCH = 32, 8
HIDDEN = range(512, 2049, 64)
RUN_SECONDS = 0.0035
"""What a run of a full batch takes at least, so that four times what the model can do is no more than can be sent."""
MODEL = "slow"
LOADERS = 2
SENSORS = 192
"""Of all loaders together; each sends every few tens of milliseconds at 4x."""
CLOSED_SENSORS = 32
WARM_SECONDS = 1.0
SEARCH, SEARCHES, TRIES = 0.9, 16, 2
"""The next rate of the search, how many are tried, and how often: a machine that stalls for a moment fails any rate."""
NEARLY_ALL = 0.97
OPEN_PAUSE = 0.2
"""Seconds after which sessions that were refused are opened again."""
WINDOW = 4
"""Messages that a sensor has unanswered at most; one that is due beyond it is not sent and counts as not answered."""


@dataclass
class Tally:
    """What one sensor saw."""

    due: int = 0
    good: int = 0
    late: int = 0
    refused: int = 0


def write_model(repository: Path) -> None:
    """An LSTM of the first size that takes about 4 ms for 8 sessions on one core of this machine."""
    version = repository / MODEL / "1"
    version.mkdir(parents=True)
    for hidden in HIDDEN:
        model = cells.build(cells.draw("lstm", INPUTS, hidden, layers=2, outputs=1))
        if _run_seconds(model) >= RUN_SECONDS:
            break
    onnx.save(model, version / "model.onnx")
    (repository / MODEL / "model.yaml").write_text(f"max_batch: {MAX_BATCH}\n")


def _run_seconds(model: onnx.ModelProto) -> float:
    """The shortest of a few runs of a full batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feeds = {
        each.name: np.zeros([dim if isinstance(dim, int) else MAX_BATCH for dim in each.shape], np.float32)
        for each in session.get_inputs()
    }
    times = []
    for _ in range(10):
        began = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - began)
    return min(times)


class Sensor:
    """One session as its client knows it, numbered as a client must: what was refused is not used up."""

    def __init__(self) -> None:
        self.next = 1
        self.sent: list[tuple[float, int]] = []
        """Of each message that has no answer yet: when it was to be sent, and in which round."""
        self.round = 0
        """Begins anew with each refusal: what was sent behind the refused message is refused, too."""
        self.quiet_until = 0.0
        """Told to come again then: what is due before is not sent, and counts as not answered."""
        self.tally = Tally()

    def send(self, intended: float) -> int:
        """The number of the next timestep, which was to be sent at this time."""
        self.sent.append((intended, self.round))
        self.next += 1
        return self.next - 1

    def answered(self, now: float, counted_from: float) -> None:
        """Counts a reply, if its timestep was due since then."""
        intended, _ = self.sent.pop(0)
        if intended >= counted_from:
            self.tally.good += now - intended <= GOOD_SECONDS
            self.tally.late += now - intended > GOOD_SECONDS

    def refused(self, step: int, quiet_until: float, counted_from: float) -> None:
        """The same of a refusal."""
        intended, sent_in = self.sent.pop(0)
        if sent_in == self.round:
            self.next, self.round = step, self.round + 1
        self.quiet_until = max(self.quiet_until, quiet_until)
        self.tally.refused += intended >= counted_from


class Gateway:
    """Sensors on one stream of many, which does not wait for answers before it sends on."""

    def __init__(self, channel: grpc.aio.Channel, prefix: str, sensors: int, obeys: bool) -> None:
        self._call = cell_service_pb2_grpc.CellServiceStub(channel).StreamMany()
        self._prefix = prefix
        self.sensors = [Sensor() for _ in range(sensors)]
        """Their handles are their places, counted from 1."""
        self._data = np.random.default_rng(0).random(INPUTS, np.float32).tobytes()
        self._obeys = obeys

    async def open(self) -> bool:
        """Opens all sessions; False: some were refused, for what a load before this one has left in flight."""
        opening = pb.StreamManyRequest()
        for at in range(len(self.sensors)):
            opening.opens.add(handle=at + 1, open=pb.Open(session_id=f"{self._prefix}-{at}", model=MODEL))
        await self._call.write(opening)
        opened = 0
        while opened < len(self.sensors):
            response = await self._read()
            if response.refused:
                self.leave()
                return False
            opened += len(response.opened)
        return True

    async def send(self, due: Sequence[tuple[int, float]]) -> None:
        """Sends the next timestep of each of these places, which was to be sent at this time."""
        if not due:
            return
        message = pb.StreamManyRequest()
        columns = message.timesteps.add(
            handles=[at + 1 for at, _ in due], steps=[self.sensors[at].send(intended) for at, intended in due]
        )
        columns.timeout.FromMilliseconds(round(1000 * TIMEOUT))
        columns.inputs.add(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[len(due), INPUTS], data=self._data * len(due))
        await self._call.write(message)

    async def receive(self, counted_from: float) -> list[int]:
        """Reads one message and counts its answers: the places that have one."""
        response = await self._read()
        now = time.monotonic()
        answered = []
        for columns in response.replies:
            for handle in columns.handles:
                self.sensors[handle - 1].answered(now, counted_from)
                answered.append(handle - 1)
        for refusal in response.refused:
            quiet_until = now + _retry_delay(refusal.status) if self._obeys else 0.0
            self.sensors[refusal.handle - 1].refused(refusal.step, quiet_until, counted_from)
            answered.append(refusal.handle - 1)
        return answered

    async def closed_loop(self, until: float, counted_from: float) -> None:
        """Each sends as soon as its last one is answered."""
        free = list(range(len(self.sensors)))
        while (now := time.monotonic()) < until:
            ready = [at for at in free if now >= self.sensors[at].quiet_until]
            free = [at for at in free if now < self.sensors[at].quiet_until]
            await self.send([(at, now) for at in ready])
            if len(free) == len(self.sensors):
                await asyncio.sleep(min(self.sensors[at].quiet_until for at in free) - now)
            else:
                free += await self.receive(counted_from)

    async def open_loop(self, interval: float, first: Sequence[float], until: float, counted_from: float) -> None:
        """Each sends at fixed times, whether it was answered or not; `first`: of each the first one."""

        async def read() -> None:
            while True:
                await self.receive(counted_from)

        reading = asyncio.create_task(read())
        coming = [(due, at) for at, due in enumerate(first)]
        heapq.heapify(coming)
        while coming[0][0] < until:
            await asyncio.sleep(max(0.0, coming[0][0] - time.monotonic()))
            now, sending = time.monotonic(), []
            while coming[0][0] <= now:
                due, at = coming[0]
                heapq.heapreplace(coming, (due + interval, at))
                sensor = self.sensors[at]
                sensor.tally.due += due >= counted_from
                if len(sensor.sent) < WINDOW and due >= sensor.quiet_until:
                    sending.append((at, due))
            await self.send(sending)
        await asyncio.sleep(GOOD_SECONDS)
        reading.cancel()

    def leave(self) -> None:
        """Ends the stream."""
        self._call.cancel()

    async def _read(self) -> pb.StreamManyResponse:
        response = await self._call.read()
        if not isinstance(response, pb.StreamManyResponse):
            raise EOFError
        return response


def _retry_delay(status: Status) -> float:
    """Seconds after which a refused client should come again."""
    retry = RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToMilliseconds() / 1000)
    return 0.0


async def load(target: str, prefix: str, sensors: int, rate: float, seconds: float, obeys: bool) -> Tally:
    """Runs so many sensors that send `rate` timesteps a second together (0: as fast as they are answered).

    Begins at the monotonic time that it is told once all are open: who opens under overload is refused.
    """
    async with grpc.aio.insecure_channel(target) as channel:
        gateway, attempt = Gateway(channel, prefix, sensors, obeys), 0
        while not await gateway.open():
            attempt += 1
            await asyncio.sleep(OPEN_PAUSE)
            gateway = Gateway(channel, f"{prefix}-again{attempt}", sensors, obeys)
        print("open", flush=True)
        start = float(await asyncio.to_thread(sys.stdin.readline))
        counted_from, until = start + WARM_SECONDS, start + WARM_SECONDS + seconds
        if rate:
            interval = sensors / rate
            first = (start + np.random.default_rng(1).random(sensors) * interval).tolist()
            await gateway.open_loop(interval, first, until, counted_from)
        else:
            await gateway.closed_loop(until, counted_from)
        gateway.leave()
    tallies = [sensor.tally for sensor in gateway.sensors]
    return Tally(*(sum(getattr(t, name) for t in tallies) for name in ("due", "good", "late", "refused")))


async def loaded(target: str, name: str, sensors: int, rate: float, seconds: float, obeys: bool = True) -> Tally:
    """`load` in LOADERS processes that begin together."""
    words = [str(word) for word in (sensors // LOADERS, rate / LOADERS, seconds, int(obeys))]
    pipe = asyncio.subprocess.PIPE
    loaders = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.overload", "load", target, f"{name}-{at}", *words, stdin=pipe, stdout=pipe
        )
        for at in range(LOADERS)
    ]
    for loader in loaders:
        assert loader.stdout
        assert await loader.stdout.readline() == b"open\n"
    start = time.monotonic()
    told = await asyncio.gather(*(loader.communicate(b"%f\n" % start) for loader in loaders))
    parts = [dict(json.loads(out)) for out, _ in told]
    return Tally(**{key: sum(part[key] for part in parts) for key in parts[0]})


async def longest_check(target: str, over: asyncio.Event) -> float:
    """The longest that a health check took until then, in seconds; each on the connection that stays."""
    longest = 0.0
    async with grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest())
        while not over.is_set():
            started = time.monotonic()
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            longest = max(longest, time.monotonic() - started)
            await asyncio.sleep(0.05)
    return longest


async def capacity_of(target: str, seconds: float) -> tuple[float, float]:
    """The highest rate of which nearly all are good, and what sensors reach that wait for each reply."""
    closed = await loaded(target, "closed", CLOSED_SENSORS, 0.0, seconds)
    most = rate = (closed.good + closed.late) / seconds
    for at in range(SEARCHES):
        for again in range(TRIES):
            tally = await loaded(target, f"search{at}-{again}", SENSORS, rate, seconds)
            if tally.good >= NEARLY_ALL * tally.due:
                return rate, most
        rate *= SEARCH
    return rate, most


async def measure(target: str, seconds: float = 5.0) -> dict[str, Any]:
    """Goodput at 1x and 4x of the capacity of the model `slow` at `target`, and the longest health check.

    Gives capacity, closed_loop, goodput_1x, goodput_2x, goodput_4x, goodput_4x_regardless (all a second), ratio and
    ratio_regardless (of the goodput at 1x), health_seconds, and the tallies.
    """
    capacity, closed_loop = await capacity_of(target, min(seconds, 3.0))
    over = asyncio.Event()
    checking = asyncio.create_task(longest_check(target, over))
    try:
        once = await loaded(target, "once", SENSORS, capacity, seconds)
        twofold = await loaded(target, "twofold", SENSORS, 2 * capacity, seconds)
        fourfold = await loaded(target, "fourfold", SENSORS, 4 * capacity, seconds)
        regardless = await loaded(target, "regardless", SENSORS, 4 * capacity, seconds, obeys=False)
    finally:
        over.set()
    return {
        "capacity": round(capacity),
        "closed_loop": round(closed_loop),
        "goodput_1x": round(once.good / seconds),
        "goodput_2x": round(twofold.good / seconds),
        "goodput_4x": round(fourfold.good / seconds),
        "goodput_4x_regardless": round(regardless.good / seconds),
        "ratio": round(fourfold.good / max(1, once.good), 3),
        "ratio_regardless": round(regardless.good / max(1, once.good), 3),
        "health_seconds": round(await checking, 4),
        "once": vars(once),
        "twofold": vars(twofold),
        "fourfold": vars(fourfold),
        "regardless": vars(regardless),
    }


async def measure_alone(seconds: float) -> dict[str, Any]:
    """`measure` on a replica and a store of its own: the replica on one core, all else on another."""
    with (
        tempfile.TemporaryDirectory() as directory,
        processes.on_cores(CLIENT_CORE),
        Children() as children,
        EmbeddedStore(children) as store,
    ):
        repository, port_file, log = (Path(directory) / name for name in ("models", "port", "log"))
        write_model(repository)
        environment = {
            "CELLWIRE_STORE_URL": store.url,
            "CELLWIRE_MODELS": str(repository),
            "CELLWIRE_PORT": "0",
            "CELLWIRE_ADMIN_PORT": "0",
            "CELLWIRE_PORT_FILE": str(port_file),
            "CELLWIRE_LOG_LEVEL": "WARNING",
        }
        with processes.on_cores(SERVER_CORE):
            replica = children.start([sys.executable, "-m", "service"], log=log, env=environment)
        while not (port_file.exists() and port_file.read_text().endswith("\n")):
            if replica.poll() is not None:
                raise SystemExit(log.read_text())
            await asyncio.sleep(0.05)
        return await measure(f"127.0.0.1:{int(port_file.read_text())}", seconds)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    if words is None and sys.argv[1:2] == ["load"]:
        target, prefix, sensors, rate, seconds, obeys = sys.argv[2:]
        tally = uvloop.run(load(target, prefix, int(sensors), float(rate), float(seconds), bool(int(obeys))))
        print(json.dumps(vars(tally)))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--target", help="a replica that serves the model; none: one is started")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    options = parser.parse_args(words)
    measured = asyncio.run(
        measure(options.target, options.seconds) if options.target else measure_alone(options.seconds)
    )
    if options.json:
        print(json.dumps(measured))
    else:
        for name, value in measured.items():
            print(f"{name:16}{value}")


if __name__ == "__main__":
    main()
