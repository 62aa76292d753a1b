"""Baselines: what else serves the same model, with the same client and on the same core."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from benchmarks import servers
from benchmarks.baselines import environments
from benchmarks.baselines.mlserver.server import mlserver
from benchmarks.baselines.ray.server import ray
from benchmarks.baselines.triton.server import triton
from benchmarks.bench import Bench, ClientFailed
from benchmarks.client.task import Task
from benchmarks.servers import DidNotStart, Server

StartIn = Callable[[Bench, Path], AbstractAsyncContextManager[Server]]
"""With its environment."""
Start = Callable[[], AbstractAsyncContextManager[Server]]
LOADS = {
    streams: [Task(streams=streams, connections=connections) for connections in (8, streams)] for streams in (32, 128)
}
TRIES = 3
"""Of a load in a turn: a server that crashes under it, as Triton's does now and then, is started again."""
ALONE = Task(streams=1, connections=1, library=True)


@asynccontextmanager
async def naive(bench: Bench, state: str) -> AsyncIterator[Server]:
    """The handwritten server, its state in redis or in memory."""
    variables = {
        "BENCHMARKS_STATE": state,
        "BENCHMARKS_STORE": bench.store.url,
        "BENCHMARKS_MODEL": str(bench.model("bench")),
    }
    name, command = f"naive {state}", servers.module("benchmarks.baselines.naive")
    async with servers.started(bench.children, name, "naive", command, bench.log(name), variables) as server:
        yield server


async def run(bench: Bench) -> None:
    """Each in turn with a replica of ours."""
    async with bench.replica(load="bench") as ours:
        states = ("redis",) if bench.plan.quick else ("redis", "memory")
        for state in states:
            async with naive(bench, state) as other:
                loads = LOADS[32] if bench.plan.quick else LOADS[32] + LOADS[128]
                for turn in range(bench.plan.runs):
                    await in_turn(bench, turn, ours, other, loads)
        await beside(bench, ours, "triton", triton, [*LOADS[32], *LOADS[128], ALONE])
        if not bench.plan.quick:
            await beside(bench, ours, "mlserver", mlserver, LOADS[32])
            await beside(bench, ours, "ray", ray, LOADS[32])


async def beside(bench: Bench, ours: Server, name: str, start: StartIn, loads: list[Task]) -> None:
    """A baseline that needs an environment of its own."""
    try:
        environment = environments.installed(name) if bench.plan.quick else environments.install(name)
        if environment is None:
            bench.skip(name, "not installed: make bench-baselines")
            return
        await in_turns(bench, ours, name, lambda: start(bench, environment), loads)
    except environments.NotHad as failure:
        bench.skip(name, "it cannot be installed here", str(failure))
    except DidNotStart as failure:
        bench.fail(name, failure, str(failure))


async def in_turns(bench: Bench, ours: Server, name: str, start: Start, loads: list[Task]) -> None:
    """A server of its own for each load, so that one that crashes takes no other measurement along.

    Raises:
        DidNotStart: none of the loads would be measured.
    """
    for turn in range(bench.plan.runs):
        for load in loads:
            try:
                await with_tries(bench, turn, ours, name, start, load)
            except ClientFailed as failure:
                what = f"{name}, {load.streams} streams on {load.connections} connections, turn {turn + 1}"
                bench.fail(what, failure, str(failure))


async def with_tries(bench: Bench, turn: int, ours: Server, name: str, start: Start, load: Task) -> None:
    """One load on a server that is started for it, and again if it crashes; ClientFailed if it always does."""
    for tries_left in reversed(range(TRIES)):
        try:
            async with start() as other:
                await in_turn(bench, turn, ours, other, [load])
            return
        except ClientFailed as failure:
            if not tries_left:
                raise
            bench.say(f"{name} once more: {failure}")


async def in_turn(bench: Bench, turn: int, ours: Server, other: Server, loads: list[Task]) -> None:
    """Ours is measured anew beside each, so that a machine that drifts takes both along."""
    for load in loads:
        client = "grpc.aio" if load.library else "raw"
        await bench.measure(other, turn, load, client=client, beside=other.name)
        await bench.measure(ours, turn, load, client=client, beside=other.name)
