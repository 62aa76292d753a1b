"""Ceilings beside the echo: the transport as the service runs it, the model alone, and the store alone."""

import asyncio
import csv
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.client.task import Task
from benchmarks.servers import CLIENT_CORE, SERVER_CORE

LOOP = """
import sys, time
import numpy as np
from pathlib import Path
from benchmarks.baselines.naive import session
model, draw = session(Path(sys.argv[1])), np.random.default_rng(0)
layers, _, hidden = model.get_inputs()[1].shape
for batch in (1, 16, 64, 128):
    state = np.zeros((layers, batch, hidden), np.float32)
    feeds = {"x": draw.random((batch, 40), np.float32), "hidden": state, "cell": state}
    for count in (50, max(50, 20000 // batch)):
        began = time.process_time()
        for _ in range(count):
            model.run(None, feeds)
    print(batch, 1e6 * (time.process_time() - began) / count / batch)
"""
CLIENTS, REQUESTS, BYTES = "32", "50000", "1024"


async def run(bench: Bench) -> None:
    """Each on the core where it is in the other workloads."""
    async with bench.echo() as echo, bench.echo("tuned_echo") as tuned:
        for turn in range(bench.plan.runs):
            for load in (Task(streams=32), Task(streams=128)):
                await bench.measure(echo, turn, load)
                await bench.measure(tuned, turn, load)
    for turn in range(bench.plan.runs):
        with processes.on_cores(SERVER_CORE):
            for line in (await _output([sys.executable, "-c", LOOP, bench.model("bench")])).splitlines():
                batch, micros = line.split()
                bench.results.add("ceilings", "onnxruntime", turn, {"batch": int(batch)}, cpu_us=float(micros))
        program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
        if program is None:
            bench.skip("store", "no redis-benchmark here")
            return
        socket = bench.store.embedded.socket
        for pipeline in (1, 16):
            words: list[str | Path] = [
                "-s",
                socket,
                "-t",
                "set,get",
                "-d",
                BYTES,
                "-n",
                REQUESTS,
                "-c",
                CLIENTS,
                "-P",
                str(pipeline),
                "--csv",
            ]
            with processes.on_cores(CLIENT_CORE):
                rows = list(csv.DictReader((await _output([program, *words])).splitlines()))
            for row in rows:
                case = {"command": row["test"], "pipeline": pipeline}
                bench.results.add("ceilings", "store", turn, case, requests_per_second=float(row["rps"]))


async def _output(command: list[str | Path]) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed")
    return out.decode()
