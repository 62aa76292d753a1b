"""An application on the client library: frames in, replies out, and every error that the library let through."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing

import numpy as np

from cellwire.client import Client
from cellwire.errors import CellwireError, SessionExpiredOrLost, StateRegressed, StoreLost
from cellwire.session import Session
from tests.faults.history import History
from tests.faults.reference import inputs
from tests.faults.workload import Script

COUNT = 8
"""T of every message."""


class Application:
    """One session of an application. Its errors are those that an application would see."""

    def __init__(self, name: str, script: Script, client: Client, history: History, pause: float = 0.0) -> None:
        self.name, self.script = name, script
        self.finish = asyncio.Event()
        """Set: it takes what is on its way and leaves."""
        self.errors: list[str] = []
        self.session: Session | None = None
        """Once it is open."""
        self._client, self._history, self._pause = client, history, pause

    async def run(self) -> None:
        """Until it is finished or the library gives up."""
        stream = self._history.new_stream()
        known = {"holder": self.name, "session": self.script.session, "life": self.script.life}
        fresh = {"epoch": 0, "step": 0, "durable": 0, "accept": None, "skip": False}
        self._history.add("open", stream=stream, via="library", **known, **fresh)
        why = "done"
        try:
            async with self._client.session(self.script.session, model=self.script.model, keep=True) as session:
                self.session, opened = session, session.opened
                at = {"step": opened.step, "epoch": opened.epoch, "created": opened.created}
                self._history.add("opened", stream=stream, h=session.resume_point.h.hex(), **at)
                await self._go_on(session, stream)
            self._history.add("ended", stream=stream, reason="CLOSED")
        except CellwireError as error:
            self.errors.append(error.reason)
            self._history.add("ended", stream=stream, reason=error.reason)
            if isinstance(error, StateRegressed | StoreLost | SessionExpiredOrLost):
                self._history.add("loss", step=0, reason=error.reason, **known)
                why = "lost"
        self._history.add("left", holder=self.name, why=why)

    async def _go_on(self, session: Session, stream: int) -> None:
        async with aclosing(session.stream(self._frames(stream), timesteps=COUNT)) as replies:
            async for reply in replies:
                point = session.resume_point
                outputs = np.ascontiguousarray(reply.outputs["y"])
                self._history.add(
                    "reply",
                    stream=stream,
                    step=reply.step,
                    h=point.h.hex(),
                    epoch=point.epoch,
                    durable=reply.durable_step,
                    replayed=reply.replayed,
                    outputs=outputs.ravel().tolist(),
                    digest=hashlib.blake2b(outputs.tobytes(), digest_size=8).hexdigest(),
                )

    async def _frames(self, stream: int) -> AsyncIterator[np.ndarray]:
        script, first = self.script, 1
        while not self.finish.is_set():
            self._history.add("send", stream=stream, first=first, count=COUNT, branch=0)
            for x in inputs(script.model, script.seed, 0, first, COUNT):
                yield x
            first += COUNT
            await asyncio.sleep(self._pause)
