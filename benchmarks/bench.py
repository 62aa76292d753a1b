"""What a workload works with: a store, servers to start, a client to run against them, and where results go."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import Progress

from benchmarks import processes, servers
from benchmarks.client.talk import Shape
from benchmarks.client.task import Task, Told
from benchmarks.costs import costs, inner
from benchmarks.measurements import Case, Results
from benchmarks.servers import CLIENT_CORE, SERVER_CORE, Server
from benchmarks.stores import OneStore, StoreLike
from cellwire.cli.children import Children

REPLY_BYTES = 80
"""Of an echo, until a reply of ours was seen."""
LONGER = 5
"""Times as long is measured what was answered nothing in its time."""
CLIENT_SECONDS = 120.0
"""That a client may take beyond its own times."""


class ClientFailed(Exception):
    """The client met what it did not expect; the text is its last line."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    runs: int = 3
    seconds: float = 3.0
    warm: float = 1.0
    quick: bool = False
    """Only what the most important ratios need."""
    idle_streams: int = 10_000
    stored_sessions: int = 100_000


class Bench:
    """One run of the suite, which owns the children, the directory and the store."""

    def __init__(
        self, plan: Plan, results: Results, children: Children, directory: Path, store: OneStore, progress: Progress
    ) -> None:
        self.plan = plan
        self.results = results
        self.children = children
        self.directory = directory
        self.store = store
        self.models = directory / "models"
        self._progress = progress
        self._task = progress.add_task("", total=None)
        self._workload = ""
        self.failed: set[str] = set()
        """Workloads of which a part failed."""
        self._reply_bytes: dict[Shape, int] = {}

    def model(self, name: str) -> Path:
        """The ONNX file of a model."""
        return self.models / name / "1" / "model.onnx"

    def begin(self, workload: str) -> None:
        """What is measured from now on belongs to this workload."""
        self._workload = workload

    def say(self, text: str) -> None:
        """A line above the progress."""
        self._progress.console.print(text, highlight=False)

    def skip(self, what: str, why: str, details: str = "") -> None:
        """Notes, and says, what is not measured; details, which may tell of this machine, are only said."""
        name = f"{self._workload} {what}".strip()
        self.results.skipped[name] = why
        self.say(f"skipped: {name}: {why}\n{details}".strip())

    def fail(self, what: str, failure: Exception, details: str) -> None:
        """The same of what was tried: a run that is continued tries it again."""
        self.failed.add(self._workload)
        self.skip(what, f"it failed: {type(failure).__name__}", details)

    def replica(
        self,
        name: str = "cellwire",
        store: StoreLike | None = None,
        dialect: str = "cellwire",
        cores: Sequence[int] = (SERVER_CORE,),
        **settings: object,
    ) -> AbstractAsyncContextManager[Server]:
        """A replica of ours."""
        admin_port = servers.free_port()
        values = {
            "store_url": (store or self.store).url,
            "models": self.models,
            "port": 0,
            "admin_port": admin_port,
            "log_level": "WARNING",
            **settings,
        }
        environment = {f"CELLWIRE_{key.upper()}": str(value) for key, value in values.items()}
        return servers.started(
            self.children,
            name,
            dialect,
            servers.module("service"),
            self.log(name),
            environment,
            admin_port=admin_port,
            cores=cores,
        )

    def echo(self, name: str = "echo") -> AbstractAsyncContextManager[Server]:
        """The bare transport; `tuned_echo`: as the service runs it."""
        command = servers.module(f"benchmarks.baselines.{name}")
        return servers.started(self.children, name.replace("_", " "), "echo", command, self.log(name), {})

    def log(self, name: str) -> Path:
        """Of a server."""
        return self.directory / f"{name.replace(' ', '-')}-{time.time_ns()}.log"

    async def run(self, server: Server, task: Task, store: StoreLike | None = None) -> Told:
        """A client's task on this server, with what is common to all filled in.

        Raises:
            ClientFailed: the load did not go as it should.
        """
        store = store or self.store
        watch = {"server": server.pids(), "core": [server.core_pid], "redis": store.pids()}
        task = replace(
            task,
            target=server.target,
            dialect=task.dialect or server.dialect,
            prefix=f"b{time.time_ns()}",
            reply_bytes=task.reply_bytes or self._reply_bytes.get(task.shape, REPLY_BYTES),
            watch=watch,
        )
        with processes.on_cores(CLIENT_CORE):
            client = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "benchmarks.client",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        try:
            async with asyncio.timeout(CLIENT_SECONDS + task.warm + task.seconds + task.sessions / 50):
                told, errors = await client.communicate(task.to_json().encode())
        except TimeoutError:
            raise ClientFailed(f"{server.name}: no end in time") from None
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
        if client.returncode:
            raise ClientFailed(f"{server.name}: {errors.decode().strip().rpartition(chr(10))[2]}")
        return Told.from_json(told.decode())

    async def measure(
        self, server: Server, run: int, task: Task, store: StoreLike | None = None, **case: int | float | str
    ) -> Told:
        """Runs a task and adds what it cost to the results; the case is its streams and connections, and what is given.

        Raises:
            ClientFailed: the load did not go as it should.
        """
        streams, connections = task.streams, min(task.streams, task.connections)
        self._progress.update(
            self._task, description=f"{self._workload} {server.name}, {streams} streams, {connections} connections"
        )
        store = store or self.store
        task = replace(task, warm=self.plan.warm, seconds=task.seconds or self.plan.seconds)
        before, used_before = server.metrics(), store.usage()
        told = await self.run(server, task, store)
        if not told.steps:  # on a machine that does everything but this
            before, used_before = server.metrics(), store.usage()
            told = await self.run(server, replace(task, seconds=LONGER * task.seconds), store)
        if not told.steps:
            raise ClientFailed(f"{server.name}: nothing was answered")
        after, used = server.metrics(), store.usage()
        if (task.dialect or server.dialect) == "cellwire":
            self._reply_bytes[task.shape] = told.reply_bytes or self._reply_bytes.get(task.shape, REPLY_BYTES)
        values = {**costs(told), **inner(before, after, told.all_steps, used.moved - used_before.moved)}
        values["store_grown_kb"] = (used.memory - used_before.memory) / 1024
        full: Case = {"streams": streams, "connections": connections, **case}
        self.results.add(self._workload, server.name, run, full, **values)
        return told
