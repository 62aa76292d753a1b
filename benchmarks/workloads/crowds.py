"""W6 and W7: streams that are open and do nothing, and sessions that come and go."""

from benchmarks.bench import Bench
from benchmarks.client.task import Task
from benchmarks.servers import Server

CONNECTIONS = 8


async def idle(bench: Bench) -> None:
    """Memory of open idle streams, a fresh server each time, against the bare echo's on the same connections."""
    few = max(1, bench.plan.idle_streams // 10)
    crowds = (("own", few, few), ("few shared", few, CONNECTIONS), ("shared", bench.plan.idle_streams, CONNECTIONS))
    for turn in range(bench.plan.runs):
        for kind, streams, connections in crowds:
            task = Task(streams=streams, connections=connections, program="idle")
            async with bench.replica(load="bench") as ours:
                await grown(bench, ours, turn, task, kind)
            async with bench.echo() as echo:
                await grown(bench, echo, turn, task, kind)


async def grown(bench: Bench, server: Server, turn: int, task: Task, kind: str) -> None:
    """The server takes its memory for them once it has served others."""
    await bench.run(server, Task(streams=32, warm=0.1, seconds=1.0))
    await bench.measure(server, turn, task, kind=kind)


async def churn(bench: Bench) -> None:
    """Sessions of ten steps; the echo's streams have as many messages."""
    task = Task(streams=32, program="churn")
    async with bench.replica(load="bench") as ours, bench.echo() as echo:
        for turn in range(bench.plan.runs):
            await bench.measure(ours, turn, task)
            await bench.measure(echo, turn, task)
