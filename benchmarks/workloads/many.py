"""W3: many sessions a message, against echoes of single messages."""

from benchmarks.bench import Bench, ClientFailed
from benchmarks.client.talk import Shape
from benchmarks.client.task import Task

IN_FLIGHT = 256
"""Timesteps; enough to keep a server busy, too few to be refused."""


async def run(bench: Bench) -> None:
    """A timestep of each session in every message."""
    sizes = (32, 128) if bench.plan.quick else (1, 8, 32, 128)
    async with bench.replica(load="bench") as ours, bench.echo() as echo:
        try:
            await bench.run(
                ours, Task(dialect="cellwire_many", shape=Shape(sessions=2), streams=1, warm=0.2, seconds=0.1)
            )
        except ClientFailed as failure:
            bench.skip("", "StreamMany is not served here", str(failure))
            return
        for turn in range(bench.plan.runs):
            for sessions in sizes:
                streams = min(32, IN_FLIGHT // sessions)
                load = Task(dialect="cellwire_many", shape=Shape(sessions=sessions), streams=streams)
                await bench.measure(ours, turn, load, sessions=sessions)
                await bench.measure(echo, turn, Task(streams=sessions, connections=8))
