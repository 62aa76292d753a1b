"""A stream of messages over a raw connection: what was sent when, and what of it is answered."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.client.http2 import Call, CallFailed, Connection
from benchmarks.client.talk import Refused, Talk

clock = time.perf_counter


@dataclass(frozen=True, slots=True)
class Sent:
    """A message under way."""

    number: int
    intended: float
    """When it was to be sent."""
    round: int


class Stream:
    """One stream. `on_answered` gets each message that is answered whole and its timesteps, `on_refused` the others."""

    def __init__(self, connection: Connection, talk: Talk) -> None:
        self._connection = connection
        self.talk = talk
        self.on_answered: Callable[[Stream, Sent, int], None] = _nobody
        self.on_refused: Callable[[Stream, Sent, Refused], None] = _not_allowed
        self.number = 0
        """Of the last message."""
        self.round = 0
        """Begins anew when numbers go back."""
        self.unanswered: deque[Sent] = deque()
        self.request_bytes = self.reply_bytes = 0
        self._call: Call | None = None
        self._ready: asyncio.Future[None] | None = None
        self._kept = b""
        self._closing = self._ended = False

    async def open(self) -> None:
        """Begins the stream, and opens what the talk opens."""
        if self.talk.unary:
            return
        opening = self.talk.opening()
        self._call = call = self._connection.call(self.talk.path, self._take_answer, self._end)
        if opening is not None:
            call.on_message = self._take_opening
            await self._awaited(lambda: call.send(opening))

    def send(self, intended: float) -> None:
        """Sends the next message, which was to be sent at that time."""
        self.number += 1
        message = self.talk.message(self.number)
        self.request_bytes = len(message)
        self.unanswered.append(Sent(self.number, intended, self.round))
        if self._call:
            self._call.send(message)
        else:
            self._connection.call(self.talk.path, self._keep, self._take_kept).send(message, last=True)

    async def step(self) -> None:
        """Sends the next message and waits for its answer."""
        self.on_answered = lambda *_: self._answer()
        await self._awaited(lambda: self.send(clock()))

    async def close(self) -> None:
        """Closes what the talk closes, and ends the stream."""
        call, closing = self._call, self.talk.closing(self.number)
        assert call
        self._closing = True
        if closing is not None:
            call.on_message = lambda _: self._answer()
            await self._awaited(lambda: call.send(closing))
        if not self._ended:
            await self._awaited(call.finish)

    async def _awaited(self, act: Callable[[], None]) -> None:
        self._ready = asyncio.get_running_loop().create_future()
        act()
        await self._ready

    def _answer(self) -> None:
        if self._ready and not self._ready.done():
            self._ready.set_result(None)

    def _take_opening(self, answer: bytes) -> None:
        assert self._call
        if self.talk.opened(answer):
            self._call.on_message = self._take_answer
            self._answer()

    def _take_answer(self, answer: bytes) -> None:
        sent = self.unanswered[0]
        try:
            steps = self.talk.complete(answer, sent.number)
        except Refused as refusal:
            self.unanswered.popleft()
            self.on_refused(self, sent, refusal)
            return
        if steps is not None:
            self.unanswered.popleft()
            self.reply_bytes = len(answer)
            self.on_answered(self, sent, steps)

    def _keep(self, answer: bytes) -> None:
        self._kept = answer

    def _take_kept(self) -> None:
        self._take_answer(self._kept)

    def _end(self) -> None:
        if not self._closing:
            raise CallFailed("the server ended a stream")
        self._ended = True
        self._answer()


def _nobody(stream: Stream, sent: Sent, steps: int) -> None:
    """Nobody waits."""


def _not_allowed(stream: Stream, sent: Sent, refusal: Refused) -> None:
    raise refusal
