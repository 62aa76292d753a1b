"""What drives the streams of a client process, a program each."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from itertools import count
from typing import Any

from benchmarks.client.http2 import Connection
from benchmarks.client.meter import Meter
from benchmarks.client.streams import Sent, Stream, clock
from benchmarks.client.talk import Refused, Talk
from benchmarks.client.task import Task, Told

AT_ONCE = 256
"""Streams that open together; more would be refused as overload."""
WINDOW = 8
"""Messages that a stream of an open loop has unanswered at most; what is due beyond is sent late, and was due then."""


class Load:
    """The streams of a task over their connections."""

    def __init__(self, task: Task, make_talk: Callable[[str], Talk], meter: Meter) -> None:
        self.task = task
        self.meter = meter
        self._make_talk = make_talk
        self._numbers = count()
        self._connections: list[Connection] = []
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> Told:
        """Connects, runs the program, leaves; whatever goes wrong on a connection or a stream is raised."""
        connections = min(self.task.connections, self.task.streams)
        self._connections = [await Connection.connect(self.task.target, self._fail) for _ in range(connections)]
        running = asyncio.create_task(PROGRAMS[self.task.program](self))
        waited: set[asyncio.Future[Any]] = {running, self._failure}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for connection in self._connections:
            connection.close()
        if self._failure.done():
            running.cancel()
            self._failure.result()
        return await running

    def stream(self) -> Stream:
        """Another one, of a session of its own, on the connection whose turn it is."""
        number = next(self._numbers)
        talk = self._make_talk(f"{self.task.prefix}-{number}")
        return Stream(self._connections[number % len(self._connections)], talk)

    async def opened(self) -> list[Stream]:
        """All streams of the task."""
        streams = [self.stream() for _ in range(self.task.streams)]
        for at in range(0, len(streams), AT_ONCE):
            await asyncio.gather(*(stream.open() for stream in streams[at : at + AT_ONCE]))
        return streams

    async def counted(self) -> Told:
        """Lets time pass; what counts is between the warming up and the end."""
        await asyncio.sleep(self.task.warm)
        self.meter.begin()
        await asyncio.sleep(self.task.seconds)
        return self.meter.end()

    def _fail(self, error: Exception) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)


async def closed(load: Load) -> Told:
    """The next message, of the stream whose turn it is, as soon as one is answered."""
    meter = load.meter
    streams = await load.opened()
    idle = deque(streams)
    over = False

    def answered(stream: Stream, sent: Sent, steps: int) -> None:
        now = clock()
        meter.answered(now - sent.intended, steps)
        meter.refused += stream.talk.refused
        if not over:
            idle.append(stream)
            idle.popleft().send(now)

    def refused(stream: Stream, sent: Sent, refusal: Refused) -> None:
        meter.refused += 1
        stream.number -= 1
        asyncio.get_running_loop().call_later(refusal.retry_after, stream.send, sent.intended)

    for stream in streams:
        stream.on_answered, stream.on_refused = answered, refused
    for _ in range(load.task.in_flight or len(streams)):
        idle.popleft().send(clock())
    told = await load.counted()
    over = True
    told.request_bytes, told.reply_bytes = streams[0].request_bytes, streams[0].reply_bytes
    return told


async def open_loop(load: Load) -> Told:
    """Messages at fixed times, whether the last ones are answered or not; latencies from the time they were due."""
    meter = load.meter
    streams = await load.opened()
    held_back: dict[Stream, deque[float]] = {stream: deque() for stream in streams}

    def answered(stream: Stream, sent: Sent, steps: int) -> None:
        meter.answered(clock() - sent.intended, steps)
        if held_back[stream]:
            stream.send(held_back[stream].popleft())

    def refused(stream: Stream, sent: Sent, refusal: Refused) -> None:
        meter.refused += 1
        if sent.round == stream.round:  # else it was sent behind one that was refused before
            stream.number, stream.round = refusal.step - 1, stream.round + 1

    for stream in streams:
        stream.on_answered, stream.on_refused = answered, refused

    async def send() -> None:
        for stream, due in _schedule(streams, load.task.rate):
            if due > clock():
                await asyncio.sleep(due - clock())  # to the millisecond, in this loop
            if len(stream.unanswered) < WINDOW:
                stream.send(due)
            else:
                held_back[stream].append(due)

    sending = asyncio.create_task(send())
    told = await load.counted()
    sending.cancel()
    return told


def _schedule(streams: list[Stream], rate: float) -> Iterator[tuple[Stream, float]]:
    """Who sends next, and when: each stream at even times, all together at the rate."""
    draw, start, interval = random.Random(1), clock(), len(streams) / rate
    phases = sorted(draw.random() for _ in streams)
    for turn in count():
        for stream, phase in zip(streams, phases, strict=True):
            yield stream, start + (turn + phase) * interval


async def churn(load: Load) -> Told:
    """Sessions that open, make their steps and close, again and again."""
    task, meter = load.task, load.meter
    left = task.sessions or None

    async def live() -> None:
        nonlocal left
        while left is None or left > 0:
            left = None if left is None else left - 1
            began, stream = clock(), load.stream()
            await stream.open()
            for _ in range(task.steps_a_session):
                await stream.step()
            await stream.close()
            meter.answered(clock() - began, task.steps_a_session)
            meter.sessions += 1

    if left is not None:
        meter.begin()
    lives = [asyncio.create_task(live()) for _ in range(task.streams)]
    everyone = asyncio.gather(*lives)
    if left is not None:
        await everyone
        return meter.end()
    told = await load.counted()
    everyone.cancel()
    return told


async def idle(load: Load) -> Told:
    """All streams open, a step each, then nothing."""
    load.meter.begin()
    streams = await load.opened()
    for at in range(0, len(streams), AT_ONCE):
        some = streams[at : at + AT_ONCE]
        began = clock()
        await asyncio.gather(*(stream.step() for stream in some))
        load.meter.answered(clock() - began, len(some))
    await asyncio.sleep(load.task.seconds)
    return load.meter.end()


PROGRAMS: dict[str, Callable[[Load], Coroutine[Any, Any, Told]]] = {
    "closed": closed,
    "open": open_loop,
    "churn": churn,
    "idle": idle,
}
