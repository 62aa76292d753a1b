"""W2: timesteps at fixed times, at parts of what streams reach that wait for each reply."""

from benchmarks.bench import Bench
from benchmarks.client.task import Task

STREAMS = 128
PERCENT = (25, 50, 70, 90)
LONG, LONGER = 70, 8
"""At this percentage so many times as long is measured. About every 40 s the store rewrites its append-only file and
stands still for some 60 ms: in three seconds that would be all of a 99th percentile, or nothing."""


async def run(bench: Bench) -> None:
    """The capacity is measured anew in each turn."""
    async with bench.replica(load="bench") as ours:
        for turn in range(bench.plan.runs):
            closed = await bench.measure(ours, turn, Task(streams=STREAMS), percent=100)
            for percent in PERCENT:
                rate = closed.steps / closed.seconds * percent / 100
                seconds = bench.plan.seconds * (LONGER if percent == LONG else 1)
                load = Task(streams=STREAMS, program="open", rate=rate, seconds=seconds)
                await bench.measure(ours, turn, load, percent=percent)
