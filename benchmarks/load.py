"""The client of a measurement, in a process of its own: streams that each wait for the reply before the next message.

    python -m benchmarks.load TARGET DIALECT STREAMS CONNECTIONS WARM_SECONDS SECONDS

The same code for every server: a dialect says what is sent and what must come. Prints "begun" when the time that counts
begins, then, as JSON, what was answered in it; goes on until its standard input ends, so that nothing slows down while
the server's CPU is read.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import numpy as np
import uvloop

from benchmarks import echo
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc, tensor_pb2

INPUTS = 40
MODEL = "bench"
CHANNEL = (("grpc.use_local_subchannel_pool", 1),)
"""Each channel has a connection of its own."""


class Dialect(Protocol):
    """How to speak with one kind of server."""

    def call(self, channel: grpc.aio.Channel) -> Any: ...

    async def begin(self, call: Any, name: str) -> None: ...

    def message(self, step: int) -> Any: ...

    def check(self, answer: Any, step: int) -> int:
        """Of a right answer: its bytes."""
        ...


@dataclass
class Cellwire:
    """A session each, its timesteps numbered."""

    data: bytes = field(default_factory=lambda: np.random.default_rng(0).random(INPUTS, np.float32).tobytes())

    def call(self, channel: grpc.aio.Channel) -> Any:
        return cell_service_pb2_grpc.CellServiceStub(channel).Stream()

    async def begin(self, call: Any, name: str) -> None:
        await call.write(pb.StreamRequest(open=pb.Open(session_id=name, model=MODEL)))
        assert (await call.read()).HasField("opened")

    def message(self, step: int) -> Any:
        inputs = [tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[INPUTS], data=self.data)]
        return pb.StreamRequest(timestep=pb.Timestep(step=step, inputs=inputs))

    def check(self, answer: Any, step: int) -> int:
        assert answer.reply.step == step, answer
        return int(answer.ByteSize()) if step % 1000 == 1 else 0


class Echo:
    """Messages as long as those of Cellwire."""

    def __init__(self) -> None:
        self._bytes = Cellwire().message(1000).SerializeToString()

    def call(self, channel: grpc.aio.Channel) -> Any:
        return channel.stream_stream(echo.METHOD)()

    async def begin(self, call: Any, name: str) -> None:
        """Nothing is opened."""

    def message(self, step: int) -> Any:
        return self._bytes

    def check(self, answer: Any, step: int) -> int:
        return len(answer)


DIALECTS: dict[str, type[Dialect]] = {"cellwire": Cellwire, "echo": Echo}


class Load:
    """All streams of the process."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.latencies: list[float] = []
        """Seconds, of what was answered since it was last emptied."""
        self.reply_bytes = 0
        self.over = False

    async def stream(self, channel: grpc.aio.Channel, name: str) -> None:
        dialect, clock = self._dialect, time.perf_counter
        call = dialect.call(channel)
        await dialect.begin(call, name)
        step = 0
        while not self.over:
            step += 1
            sent = clock()
            await call.write(dialect.message(step))
            self.reply_bytes = dialect.check(await call.read(), step) or self.reply_bytes
            self.latencies.append(clock() - sent)
        call.cancel()


async def run(target: str, dialect: str, streams: int, connections: int, warm: float, seconds: float) -> None:
    load = Load(DIALECTS[dialect]())
    channels = [grpc.aio.insecure_channel(target, options=CHANNEL) for _ in range(min(streams, connections))]
    tasks = [
        asyncio.create_task(load.stream(channels[at % len(channels)], f"{time.time_ns()}-{at}"))
        for at in range(streams)
    ]
    await asyncio.sleep(warm)
    print("begun", flush=True)
    load.latencies.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took, latencies = time.perf_counter() - began, np.array(load.latencies) * 1000
    p50, p99 = np.percentile(latencies, [50, 99])
    told = {"steps": len(latencies), "seconds": took, "p50_ms": p50, "p99_ms": p99, "reply_bytes": load.reply_bytes}
    print(json.dumps(told), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    load.over = True
    await asyncio.gather(*tasks)
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    uvloop.run(
        run(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6]))
    )
