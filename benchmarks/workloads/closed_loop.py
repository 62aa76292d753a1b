"""W1: streams that each send the next timestep when the last one is answered, against the bare echo."""

from benchmarks.bench import Bench
from benchmarks.client.task import Task

LOADS = ((32, 8), (32, 32), (128, 8), (128, 128))
"""Streams and connections."""
MORE_LOADS = ((1, 1), (512, 8), (512, 512))


async def run(bench: Bench) -> None:
    """One stream speaks through grpc.aio, for latencies as an application sees them; all others through raw HTTP/2."""
    loads = [Task(streams=streams, connections=connections) for streams, connections in LOADS]
    if not bench.plan.quick:
        loads += [Task(streams=streams, connections=connections) for streams, connections in MORE_LOADS]
    alone = Task(streams=1, connections=1, library=True)
    async with bench.replica(load="bench") as ours, bench.echo() as echo:
        for turn in range(bench.plan.runs):
            for load in loads:
                await bench.measure(ours, turn, load)
                await bench.measure(echo, turn, load)
            await bench.measure(ours, turn, alone, client="grpc.aio")
            await bench.measure(echo, turn, alone, client="grpc.aio")
