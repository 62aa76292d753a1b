"""What a timestep costs as sessions grow in number, open or only stored; and what a stored one costs the replica."""

from dataclasses import replace

from benchmarks.bench import Bench
from benchmarks.client.talk import Shape
from benchmarks.client.task import Task
from benchmarks.stores import store_on_client_core

IN_FLIGHT, MANY = 32, 4096
FEW_TO_BEGIN = 2000
"""Sessions after which a replica has the memory that it works with."""


async def run(bench: Bench) -> None:
    """As many timesteps in flight in all cases, of streams that take turns; of the bare echo's, too, which leave the
    caches as ours do.
    """
    once = Task(streams=64, program="churn", steps_a_session=1, shape=Shape(keep=True))
    stored = bench.plan.stored_sessions
    with store_on_client_core(bench.children) as full:
        async with (
            bench.replica(load="bench") as ours,
            bench.replica(store=full, load="bench") as beside,
            bench.echo() as echo,
        ):
            await bench.run(beside, replace(once, sessions=FEW_TO_BEGIN), full)
            await bench.measure(beside, 0, replace(once, sessions=stored), full, kind="stored", sessions=stored)
            for turn in range(bench.plan.runs):
                await bench.measure(ours, turn, Task(streams=IN_FLIGHT), stored="none", sessions=IN_FLIGHT)
                await bench.measure(beside, turn, Task(streams=IN_FLIGHT), full, stored="many")
                await bench.measure(ours, turn, Task(streams=MANY, in_flight=IN_FLIGHT), sessions=MANY)
                await bench.measure(echo, turn, Task(streams=IN_FLIGHT), sessions=IN_FLIGHT)
                await bench.measure(echo, turn, Task(streams=MANY, in_flight=IN_FLIGHT), sessions=MANY)
