"""Many sessions of one program, such as the sensors of a gateway, on one stream to the replica that holds them.

async with Client(targets) as client, client.many() as sensors:
    await sensors.open(names, model="water_flow", keep=True)
    async for name, answer in sensors.stream(readings):
        print(name, answer)
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from cellwire.frames import each as each_of
from cellwire.replies import Reply
from cellwire.resume import ResumePoint
from cellwire.session import Session
from cellwire.tensors import Frame
from cellwire.trunk import SharedStreams

Answer = Reply | Exception
"""To one frame: its reply, or the error of its session, which is no other's."""
T = TypeVar("T")
Batch = Mapping[str, Frame]
"""Session id -> the next frame of that session."""


class Many(Mapping[str, Session]):
    """Open sessions by their ids, each with everything that a `Session` has, to be entered with `async with`.

    They share a stream: what is sent in the same moment travels as columns. Each of them is resumed, replayed and
    refused by itself, and goes to another replica by itself if it must. Leaving normally closes them (or keeps them, as
    they were opened), leaving by an exception keeps them all.
    """

    def __init__(self, session: Callable[..., Session]) -> None:
        """`session` is `Client.session`."""
        self._session = session
        self._streams = SharedStreams()
        self._sessions: dict[str, Session] = {}

    def __getitem__(self, session_id: str) -> Session:
        return self._sessions[session_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sessions)

    def __len__(self) -> int:
        return len(self._sessions)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            failures = await self._leave(list(self), kind, error, trace)
        finally:
            await self._streams.end()
        if error is None and failures:
            raise next(iter(failures.values()))

    async def open(self, sessions: Iterable[str | ResumePoint], **options: Any) -> dict[str, Exception]:
        """Open sessions, by an id or by a saved resume point, all at once: the errors of those that could not be.

        The options are those of `Client.session`, the same for all.
        """
        wanted = [
            self._session(resume=name, dialling=self._streams, **options)
            if isinstance(name, ResumePoint)
            else self._session(name, dialling=self._streams, **options)
            for name in sessions
        ]
        failures = {}
        for session, failure in zip(wanted, await _all(session.__aenter__() for session in wanted), strict=True):
            if isinstance(failure, Exception):
                failures[session.session_id] = failure
            else:
                self._sessions[session.session_id] = session
        return failures

    async def close(self, session_ids: Iterable[str]) -> dict[str, Exception]:
        """Leave these sessions, normally: the errors of those that could not be closed."""
        return await self._leave(list(session_ids), None, None, None)

    async def step(self, frames: Batch, **options: Any) -> dict[str, Answer]:
        """Advance each of these sessions by its frame, and give the answers once all are there.

        The options are those of `Session.step`, the same for all.
        """
        sessions = [self[name] for name in frames]
        steps = (session.step(frame, **options) for session, frame in zip(sessions, frames.values(), strict=True))
        return dict(zip(frames, await _all(steps), strict=True))

    async def stream(
        self, batches: Iterable[Batch] | AsyncIterable[Batch], **options: Any
    ) -> AsyncGenerator[tuple[str, Answer], None]:
        """Advance sessions by frames as they come; yield each answer with the id of its session as soon as it is there.

        The answers of a session are in the order of its frames, each exactly once; those of two sessions in any. Frames
        are taken as far ahead as the windows of all sessions together let them. A source that waits must be an async
        iterable. The options are those of `Session.step`.
        """
        answers: asyncio.Queue[tuple[str, Answer] | None] = asyncio.Queue()
        room = asyncio.Semaphore(sum(session.opened.window for session in self.values()))
        steps: set[asyncio.Task[None]] = set()

        async def answer(session: Session, frame: Frame) -> None:
            answers.put_nowait((session.session_id, await _tried(session.step(frame, **options))))

        async def feed() -> None:
            try:
                async with aclosing(each_of(batches)) as source:
                    async for batch in source:
                        for name, frame in batch.items():
                            session = self[name]
                            await room.acquire()
                            step = asyncio.create_task(answer(session, frame))
                            steps.add(step)
                            step.add_done_callback(steps.discard)
            finally:
                if steps:
                    await asyncio.wait(steps)
                answers.put_nowait(None)

        feeder = asyncio.create_task(feed())
        try:
            while (told := await answers.get()) is not None:
                room.release()
                yield told
            feeder.result()  # what the source raised
        finally:
            for task in (feeder, *steps):
                task.cancel()
            await asyncio.wait({feeder, *steps})

    async def _leave(self, session_ids: list[str], *why: Any) -> dict[str, Exception]:
        left = [self._sessions.pop(name) for name in session_ids]
        told = await _all(session.__aexit__(*why) for session in left)
        return {
            name: failure for name, failure in zip(session_ids, told, strict=True) if isinstance(failure, Exception)
        }


async def _tried(work: Coroutine[Any, Any, T]) -> T | Exception:
    try:
        return await work
    except Exception as error:
        return error


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T | Exception]:
    """What each of them returns or raises."""
    return await asyncio.gather(*map(_tried, work))
