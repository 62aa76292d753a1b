"""What goes wrong, drawn from a seed: the same seed draws the same faults in the same order for each victim.

Three lines of misfortune at once: one for each replica's process, one for the store, one for the wires. `heal` ends
all of it and leaves everything running.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from redis.exceptions import RedisError

from service.failpoints import PLACES
from tests.faults.fleet import Fleet, Slot
from tests.faults.history import History
from tests.faults.stores import Pair
from tests.proxy import Fault, chaos

STORM = (Fault.DROP, Fault.CUT, Fault.CUT_REQUEST, Fault.SHIFT, Fault.DELAY)
LOOK_SECONDS = 0.02
Act = Callable[[random.Random], Awaitable[None]]


class Nemesis:
    """Works against a fleet and its store from `start` until `heal`."""

    def __init__(self, fleet: Fleet, pair: Pair, history: History, seed: int, storm: float = 0.03) -> None:
        self._fleet, self._pair, self._history, self._seed, self._storm = fleet, pair, history, seed, storm
        self._tasks: list[asyncio.Task[None]] = []
        self._down = asyncio.Semaphore(len(fleet.slots) - 1)
        """One replica is always left alone."""
        self._over = asyncio.Event()

    def start(self, *, replicas: bool = True, store: bool = True, wires: bool = True) -> None:
        """From here on things go wrong."""
        if replicas:
            for slot in self._fleet.slots:
                self._begin(self._against_replica(slot, self._draw(slot.name)))
        if store:
            self._begin(self._against_store(self._draw("store")))
        if wires:
            for slot in self._fleet.slots:
                slot.proxy.storm(chaos(self._draw(f"storm {slot.name}").getrandbits(32), self._storm, STORM))
                self._begin(self._against_wires(slot, self._draw(f"wires {slot.name}")))

    def raise_failures(self) -> None:
        """A nemesis that failed by itself proves nothing."""
        for task in self._tasks:
            if task.done() and (error := task.exception()):
                raise error

    async def heal(self) -> None:
        """Each misfortune comes to its end, and no other one begins; no replica has one before it."""
        self._over.set()
        await asyncio.gather(*self._tasks)
        for slot in self._fleet.slots:
            slot.proxy.strike()
            if slot.armed:
                await slot.kill()
                slot.armed = False
                await self._fleet.start(slot)
        self._history.add("fault", what="healed", target="all")

    def _draw(self, victim: str) -> random.Random:
        return random.Random(f"{self._seed} {victim}")

    def _begin(self, line: Awaitable[None]) -> None:
        self._tasks.append(asyncio.ensure_future(line))

    async def _quiet(self, seconds: float) -> None:
        """A time without misfortune; less once all is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)

    # replicas

    async def _against_replica(self, slot: Slot, draw: random.Random) -> None:
        while not self._over.is_set():
            died = await self._watched(slot, draw.uniform(0.2, 3.0))
            if self._over.is_set() and not died:
                return
            act = draw.choices(("kill", "pause", "terminate"), (9, 12, 1))[0]
            if act == "pause" and not died:
                async with slot.busy:
                    await slot.pause(draw.choice((0.05, 0.2, 0.5, 1.0, 2.0)))
                continue
            async with self._down, slot.busy:
                if died:
                    self._history.add("fault", what="kill", target=slot.name, by="failpoint")
                    await slot.ended()
                elif act == "kill" or slot.armed:
                    await slot.kill()
                else:
                    await slot.terminate()
                await self._start(slot, draw)

    async def _start(self, slot: Slot, draw: random.Random) -> None:
        """Half of the replicas come with a place at which they will die, stop or hang."""
        place, hit = draw.choice(PLACES), draw.randrange(1, 60)
        action = draw.choices(("exit", "stop", "block:0.7", "drop"), (6, 3, 1, 3))[0]
        if action == "drop":
            place = "after_send"
        slot.armed = draw.random() < 0.5 and not self._over.is_set()
        await self._fleet.start(slot, failpoints=f"{place}={action}@{hit}" if slot.armed else "")

    async def _watched(self, slot: Slot, seconds: float) -> bool:
        """So long at most: whether the replica died by itself. One that stopped itself is woken."""
        assert slot.process
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while loop.time() < deadline and not self._over.is_set():
            if slot.process.child.poll() is not None:
                return True
            if _is_stopped(slot.pid):
                async with slot.busy:
                    await slot.pause(0.3)
            await self._quiet(LOOK_SECONDS)
        return slot.process.child.poll() is not None

    # the store

    async def _against_store(self, draw: random.Random) -> None:
        acts: tuple[Act, ...] = (
            *(self._fail_over,) * 6,
            self._crash,
            self._flush_scripts,
            self._kill_connections,
            self._pause_writes,
            self._sleep,
            self._fill,
        )
        while not self._over.is_set():
            await self._quiet(draw.uniform(1.0, 8.0))
            await draw.choice(acts)(draw)

    async def _fail_over(self, draw: random.Random) -> None:
        lag = draw.uniform(0.05, 1.5)
        self._history.add("fault", what="lag", target="store", seconds=lag)
        self._pair.lag()
        await asyncio.sleep(lag)
        self._history.add("fault", what="failover", target="store", loses=True)
        await self._pair.fail_over()
        self._fleet.move_store(self._pair.url)
        await self._pair.recover()
        self._history.add("fault", what="recovered", target="store")

    async def _crash(self, draw: random.Random) -> None:
        self._history.add("fault", what="crash", target="store")
        await self._pair.crash()
        await self._pair.caught_up()

    async def _flush_scripts(self, draw: random.Random) -> None:
        await self._ask("SCRIPT", "FLUSH")

    async def _kill_connections(self, draw: random.Random) -> None:
        for _ in range(5):
            await self._ask("CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(0.2)

    async def _pause_writes(self, draw: random.Random) -> None:
        await self._ask("CLIENT", "PAUSE", draw.choice((200, 1000, 2500)), "WRITE")

    async def _sleep(self, draw: random.Random) -> None:
        await self._ask("DEBUG", "SLEEP", draw.choice((1, 2)))

    async def _fill(self, draw: random.Random) -> None:
        await self._ask("CONFIG", "SET", "maxmemory", "1mb")
        await asyncio.sleep(draw.uniform(0.1, 0.5))
        await self._ask("CONFIG", "SET", "maxmemory", "0")

    async def _ask(self, *command: str | int) -> None:
        self._history.add("fault", what=" ".join(map(str, command)).lower(), target="store")
        with suppress(RedisError, OSError):  # it may kill the connection that asks
            await self._pair.ask(*command)

    # the wires

    async def _against_wires(self, slot: Slot, draw: random.Random) -> None:
        wires = (slot.proxy, slot.gate)
        while not self._over.is_set():
            await self._quiet(draw.uniform(1.0, 15.0))
            wire = draw.choice(wires)
            act = draw.choice(("freeze", "cut", "reset", "slow", "mid-frame"))
            self._history.add("fault", what=f"wire {act}", target=slot.name)
            if act == "reset":
                wire.reset()
            elif act == "mid-frame":
                slot.gate.reset_in_mid_frame()
            elif act == "slow":
                before, wire.delay = wire.delay, 0.05
                await self._quiet(1.0)
                wire.delay = before
            else:
                (wire.freeze if act == "freeze" else wire.cut)()
                await self._quiet(draw.choice((0.1, 0.5, 1.5)))
                wire.mend()


def _is_stopped(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False
