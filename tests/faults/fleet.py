"""Replicas to be killed, paused and asked to go, each with a proxy before its store and a gate before its port."""

import asyncio
import os
import random
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

import grpc

from cellwire.cli.children import Children, stop
from service.store.scripts import COMMIT
from tests.faults.gate import Gate
from tests.faults.history import History
from tests.harness import Place, ReplicaProcess
from tests.proxy import Proxy

CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Slot:
    """The place of one replica: its process comes and goes, its proxy and its gate stay."""

    def __init__(
        self, name: str, place: Place, directory: Path, children: Children, history: History, direct: bool
    ) -> None:
        self.name = name
        self.proxy = Proxy(directory, place.store_url, name=f"{name}-store")
        self.proxy.on_settled = self._settled
        self.gate = Gate()
        self.busy = asyncio.Lock()
        """Held by whoever does something to the process."""
        self.armed = False
        """The process has a failpoint before it: it may die by itself."""
        self.process: ReplicaProcess | None = None
        self.channel: grpc.aio.Channel | None = None
        """Straight to the process; None while there is none."""
        self._place = place if direct else replace(place, store_url=self.proxy.url)
        self._directory, self._children, self._history = directory, children, history
        self._lives = 0
        self._channels: list[grpc.aio.Channel] = []

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.child.pid

    async def start(self, **settings: object) -> None:
        """A new process, that serves when this returns."""
        self._lives += 1
        name = f"{self.name}-{self._lives}"
        process = ReplicaProcess(self._children, self._place, self._directory, name, **settings)
        self.process = process
        target = await asyncio.to_thread(process.target)
        self.gate.upstream = target
        self.channel = grpc.aio.insecure_channel(target, options=CHANNEL)
        self._channels.append(self.channel)

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process
        self._history.add("fault", what="kill", target=self.name)
        self.process.kill()
        self.gone()

    async def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a time: its connections stay, and nobody is told."""
        self._history.add("fault", what="pause", target=self.name, seconds=seconds)
        os.kill(self.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(self.pid, signal.SIGCONT)
        self._history.add("fault", what="resume", target=self.name)

    async def terminate(self, grace: float = 30.0) -> int:
        """SIGTERM: its exit status, -9 if it did not end within the grace."""
        assert self.process
        self._history.add("fault", what="terminate", target=self.name)
        status = await asyncio.to_thread(stop, self.process.child, grace)
        self._history.add("exited", target=self.name, asked="TERM", status=status)
        self.gone()
        return status

    async def ended(self) -> int:
        """Waits until the process ends by itself: its exit status."""
        assert self.process
        status = await asyncio.to_thread(self.process.child.wait)
        self._history.add("exited", target=self.name, asked="", status=status)
        self.gone()
        return status

    def gone(self) -> None:
        """The process is no more: nothing leads to it any longer."""
        self.gate.upstream = ""
        self.gate.reset()
        self.channel = None

    async def hang_up(self) -> None:
        """Every client's connection ends; RPCs that still run are cancelled."""
        self.gate.reset()
        self.channel = None
        while self._channels:
            await self._channels.pop().close()

    def _settled(self, request: bytes, answer: bytes) -> None:
        """A call that had been in doubt was answered: DUPLICATE says that it had been executed."""
        if COMMIT.sha in request[:80]:
            for outcome, word in (("executed", b"DUPLICATE "), ("not executed", b"\nOK ")):
                if found := answer.count(word):
                    self._history.add("settled", outcome=outcome, count=found)


class Fleet:
    """Replicas on one store. `async with` starts them all.

    `direct`: they reach their store without proxies, for stores of more than one address.
    """

    def __init__(
        self,
        children: Children,
        place: Place,
        directory: Path,
        history: History,
        *,
        count: int = 3,
        direct: bool = False,
        **settings: object,
    ) -> None:
        self.slots = [Slot(f"r{at}", place, directory, children, history, direct) for at in range(count)]
        self.settings = settings
        self._stack = AsyncExitStack()

    @property
    def fronts(self) -> list[str]:
        """The addresses of the gates: these stay."""
        return [slot.gate.address for slot in self.slots]

    def any_channel(self, draw: random.Random) -> grpc.aio.Channel | None:
        """To one of the replicas that have a process now, dead or not."""
        channels = [slot.channel for slot in self.slots if slot.channel]
        return draw.choice(channels) if channels else None

    def move_store(self, url: str) -> None:
        """From here on the store is another one; what hangs on the old one is reset."""
        for slot in self.slots:
            slot.proxy.upstream = url
            slot.proxy.reset()

    async def start(self, slot: Slot, **settings: object) -> None:
        """A new process at this place, with the settings of the fleet and these."""
        await slot.start(**{**self.settings, **settings})

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for slot in self.slots:
                await stack.enter_async_context(slot.proxy)
                await stack.enter_async_context(slot.gate)
                stack.push_async_callback(self._end, slot)
            await asyncio.gather(*(self.start(slot) for slot in self.slots))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _end(self, slot: Slot) -> None:
        if slot.process and slot.process.child.poll() is None:
            slot.process.kill()
        await slot.hang_up()
