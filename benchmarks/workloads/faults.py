"""W9 and W10: what clients see of a replica that is killed, and of one that is asked for more than it can do."""

import asyncio
import os
import signal
import time
from contextlib import suppress

import numpy as np

from benchmarks import overload, processes
from benchmarks.bench import Bench
from benchmarks.models import INPUTS
from benchmarks.servers import CLIENT_CORE, SERVER_CORE
from cellwire.client import Client

SESSIONS = 32
BEFORE, AFTER = 1.0, 5.0
"""Seconds before the kill, and after it."""


async def killed(bench: Bench) -> None:
    """Sessions of the client library on two replicas, one of which is killed: how long each was without a reply."""
    frame = np.zeros(INPUTS, np.float32)
    for turn in range(bench.plan.runs):
        async with bench.replica(load="bench") as first, bench.replica(load="bench") as second:
            gaps: list[float] = []

            async def live(client: Client, name: str, until: float, gaps: list[float] = gaps) -> None:
                longest = 0.0
                async with client.session(name, model="bench") as session:
                    last = time.monotonic()
                    while last < until:
                        await session.step(frame)
                        longest, last = max(longest, time.monotonic() - last), time.monotonic()
                    if session.resumptions:
                        gaps.append(longest)

            async with Client([first.target, second.target]) as client:
                until = time.monotonic() + BEFORE + AFTER
                names = [f"gap-{time.time_ns()}-{at}" for at in range(SESSIONS)]
                lives = asyncio.gather(*(live(client, name, until) for name in names))
                await asyncio.sleep(BEFORE)
                with suppress(ProcessLookupError):
                    os.kill(first.pid, signal.SIGKILL)
                await lives
        ordered = sorted(gaps)
        values = {"resumed": float(len(gaps))}
        if ordered:
            values |= {"gap_p50_ms": 1000 * ordered[len(ordered) // 2], "gap_max_ms": 1000 * ordered[-1]}
        bench.results.add("W9", "cellwire", turn, {"streams": SESSIONS}, **values)


async def overloaded(bench: Bench) -> None:
    """The goodput of a model of about 4 ms a run at once, twice and four times what it can do."""
    overload.write_model(bench.models)
    async with bench.replica(load=overload.MODEL) as ours:
        for turn in range(bench.plan.runs):
            with processes.on_cores(CLIENT_CORE):
                told = await overload.measure(ours.target, bench.plan.seconds)
            values = {name: float(value) for name, value in told.items() if isinstance(value, int | float)}
            values["goodput_4x_vs_1x"] = values["ratio"]
            bench.results.add("W10", "cellwire", turn, {"sensors": overload.SENSORS, "core": SERVER_CORE}, **values)
