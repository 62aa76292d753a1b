"""W2: timesteps at fixed times, at parts of what streams reach that wait for each reply."""

from benchmarks.bench import Bench
from benchmarks.client.task import Task

STREAMS = 128
PERCENT = (25, 50, 70, 90)


async def run(bench: Bench) -> None:
    """The capacity is measured anew in each turn."""
    async with bench.replica(load="bench") as ours:
        for turn in range(bench.plan.runs):
            closed = await bench.measure(ours, turn, Task(streams=STREAMS), percent=100)
            for percent in PERCENT:
                rate = closed.steps / closed.seconds * percent / 100
                await bench.measure(ours, turn, Task(streams=STREAMS, program="open", rate=rate), percent=percent)
