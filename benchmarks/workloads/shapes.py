"""W4, W5, W13 and the other models: what a message carries, and how."""

import asyncio
import subprocess
import sys
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.client.talk import Shape
from benchmarks.client.task import Task
from benchmarks.models import CARRIED

PULLED = "from service.settings import default_cache; print(default_cache())"
"""Asked in a process of its own: what the service sets for its process, the bare servers are not to inherit."""
SILERO = Shape(model="silero_vad", inputs=(("input", (512,)),), outputs=1)


async def timesteps(bench: Bench) -> None:
    """W4: several timesteps of a session a message."""
    async with bench.replica(load="bench") as ours:
        for turn in range(bench.plan.runs):
            for count in (1, 8, 32):
                await bench.measure(ours, turn, Task(shape=Shape(timesteps=count)), timesteps=count)


async def unary(bench: Bench) -> None:
    """W5: calls without a stream, beside streams."""
    async with bench.replica(load="bench") as ours:
        for turn in range(bench.plan.runs):
            await bench.measure(ours, turn, Task(dialect="cellwire_unary"), how="unary")
            await bench.measure(ours, turn, Task(), how="stream")


async def states(bench: Bench) -> None:
    """W13: states of 1, 8 and 64 KB in a cell that computes next to nothing."""
    async with bench.replica(load=",".join(CARRIED)) as ours:
        for turn in range(bench.plan.runs):
            for name, kilobytes in CARRIED.items():
                await bench.measure(ours, turn, Task(shape=Shape(model=name)), state_kb=kilobytes)


async def models(bench: Bench) -> None:
    """LSTMs of other sizes, and a real model of speech."""
    shapes = [Shape(), Shape(model="lstm256"), Shape(model="lstm512")]
    told = await asyncio.to_thread(subprocess.check_output, [sys.executable, "-c", PULLED], text=True)
    pulled = Path(told.strip())
    if (pulled / "silero_vad").is_dir():
        shapes.append(SILERO)
    else:
        bench.skip("silero_vad", "not fetched: cellwire models pull")
    async with bench.replica(
        models=f"{bench.models}:{pulled}" if SILERO in shapes else bench.models,
        load=",".join(shape.model for shape in shapes),
    ) as ours:
        for turn in range(bench.plan.runs):
            for shape in shapes:
                for streams in (32, 128):
                    await bench.measure(ours, turn, Task(streams=streams, shape=shape), model=shape.model)
