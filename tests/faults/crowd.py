"""Many clients at once: streams, calls and applications, some alone, some with a rival, session after session."""

import asyncio
import random
from collections.abc import Callable

from cellwire.client import Client
from tests.faults.fleet import Fleet
from tests.faults.history import History
from tests.faults.library import Application
from tests.faults.workload import Caller, Holder, Script

END_SECONDS = 60.0
"""In which every client gets to its end once all faults have healed."""
Member = Holder | Application
Members = Callable[[str, Script], list[Member]]
"""Makes the holders of a script, named after it."""


class Crowd:
    """Clients that go on until `finish`. A session that is closed or lost is followed by its id's next life."""

    def __init__(self, fleet: Fleet, client: Client, history: History, seed: int) -> None:
        self._fleet, self._client, self._history, self._seed = fleet, client, history, seed
        self._members: set[Member] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._finishing = False

    def start(self, streams: int, rivals: int, calls: int, applications: int, pause: float = 0.0) -> None:
        """So many sessions of each sort; one in six is an LSTM's, one stream in four writes behind.

        `pause`: seconds between two messages of an application.
        """
        for at in range(streams):
            self._begin(f"stream{at}", self._holders(Holder, 1), behind=at % 4 == 3, closes=at % 3 == 0)
        for at in range(rivals):
            self._begin(f"rivals{at}", self._holders(Holder, 2), closes=at % 3 == 0)
        for at in range(calls):
            self._begin(f"call{at}", self._holders(Caller, 1))
        for at in range(applications):
            self._begin(f"app{at}", self._application(pause), fresh_ids=True)

    async def finish(self) -> None:
        """Lets each client take what is on its way; who does not get to that is stuck."""
        self._finishing = True
        for member in self._members:
            member.finish.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_SECONDS)
        for member in self._members:
            self._history.add("left", holder=member.name, why="stuck")
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def raise_failures(self) -> None:
        """A client of ours that failed by itself proves nothing."""
        for task in self._tasks:
            if task.done() and (error := task.exception()):
                raise error

    def _begin(self, name: str, members: Members, **shape: bool) -> None:
        self._tasks.add(asyncio.create_task(self._lives(name, members, **shape)))

    async def _lives(
        self, name: str, members: Members, behind: bool = False, closes: bool = False, fresh_ids: bool = False
    ) -> None:
        draw, life = random.Random(f"{self._seed} {name}"), 0
        model = "lstm" if draw.random() < 1 / 6 else "checker"
        while not self._finishing:
            life += 1
            script = Script(f"{name}-{life}" if fresh_ids else name, life, model, draw.getrandbits(32), behind)
            chosen = members(f"{name}.{life}", script)
            script.rivals = len(chosen) > 1
            script.last = _end(script, draw.randrange(500, 5000)) if closes else 0
            shown = {"seed": script.seed, "rivals": script.rivals, "behind": behind}
            self._history.add("session", session=script.session, life=life, model=model, **shown)
            await asyncio.gather(*map(self._run, chosen))

    async def _run(self, member: Member) -> None:
        self._members.add(member)
        if self._finishing:
            member.finish.set()
        await member.run()
        self._members.discard(member)

    def _holders(self, kind: type[Holder], count: int) -> Members:
        def made(name: str, script: Script) -> list[Member]:
            draws = [random.Random(f"{self._seed} {name} {at}") for at in range(count)]
            return [kind(f"{name}.{at}", script, self._fleet, self._history, draws[at]) for at in range(count)]

        return made

    def _application(self, pause: float) -> Members:
        return lambda name, script: [Application(name, script, self._client, self._history, pause)]


def _end(script: Script, enough: int) -> int:
    """The first end of a message from this step on."""
    step = 0
    while step < enough:
        step += script.count(step + 1)
    return step
