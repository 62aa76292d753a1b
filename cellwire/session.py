"""A session as an application sees it: frames in, replies out, each exactly once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self

from cellwire.calls import Dialling
from cellwire.frames import Frames, grouped
from cellwire.line import Line
from cellwire.replies import Opened, Reply, Resumption
from cellwire.resume import Checkpoint, ResumePoint
from cellwire.retries import Patience
from cellwire.tail import Tail
from cellwire.targets import Targets
from cellwire.tensors import Frame, TensorSpec, encode_frame, stack_frames
from cellwire.unanswered import Message, Run
from cellwire.v1.cell_service_pb2 import Open, Timestep

_MAX_SECONDS = 1e9
"""More than any deadline."""


class Session:
    """One session, open from entering to leaving its `async with`.

    Leaving normally closes it: its state is dropped, or kept for a later resumption if it was opened with `keep`.
    Leaving by an exception always keeps the state. Its errors are those of `cellwire.errors`; after one that ended
    the session every call raises it again.
    """

    def __init__(
        self,
        targets: Targets,
        point: ResumePoint,
        options: Open,
        patience: Patience,
        tail: Tail,
        dialling: Dialling,
        *,
        keep: bool,
    ) -> None:
        self._line = Line(targets, point, options, patience, tail, dialling)
        self._keep = keep
        self._specs: dict[str, TensorSpec] = {}
        self._delivered: Checkpoint | None = None
        self._feeders: set[asyncio.Task[None]] = set()

    @property
    def session_id(self) -> str:
        """The id that the session has in the store."""
        return self._line.session_id

    @property
    def opened(self) -> Opened:
        """Facts of the last opening: where it stood, the window, the inputs' shapes and dtypes, the replica."""
        if self._line.opened is None:
            raise RuntimeError("a session is opened by `async with`")
        return self._line.opened

    @property
    def last_step(self) -> int:
        """The number of the last timestep whose reply the application got."""
        return (self._delivered or (self._line.standing.point.step, b""))[0]

    @property
    def resumptions(self) -> tuple[Resumption, ...]:
        """Each change of stream since the session was opened."""
        return tuple(self._line.resumptions)

    @property
    def fetched(self) -> tuple[Reply, ...]:
        """The stored replies that came with the open, in order, if it asked for them (`lost_replies="fetch"`)."""
        return tuple(Reply.of(reply, self._line.outputs) for reply in self._line.fetched)

    @property
    def resume_point(self) -> ResumePoint:
        """Where the application stands: after the last reply that it got.

        A secret; save it (`to_json`) and give it to `Client.session(resume=...)` to go on later or elsewhere.
        """
        if self._delivered is None:
            return self._line.standing.point
        return self._line.point_after(self._delivered)

    async def __aenter__(self) -> Self:
        await self._line.start()
        self._specs = {spec.name: spec for spec in self.opened.inputs}
        point = self._line.standing.point
        self._delivered = (point.step, point.h)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for feeder in self._feeders:
                feeder.cancel()
            if error is None:
                await self._line.close(self._keep)
        finally:
            await self._line.end()

    async def step(
        self, frame: Frame, *, timesteps: int = 0, start_within: float | None = None, priority: int = 0
    ) -> Reply:
        """Advance the state by one timestep and give its reply.

        `frame` is the array of a model with one input, or a dict input name -> array, with the shapes and dtypes of
        `opened.inputs`; lists and numbers get the model's dtype. With `timesteps` T >= 1 each array has a leading
        axis T and the reply is one for all of them. A refused input raises InvalidInput (or NonFinite, ...) and
        leaves state and numbering as they were. A caller that is cancelled does not know whether it was executed.
        What is not started within `start_within` seconds raises StepDeadline and is not executed; under overload a
        higher `priority` goes first.
        """
        message = await self._submit(new_timestep(timesteps, start_within, priority), frame)
        try:
            return await self._deliver(message)
        finally:
            message.answer.cancel()

    async def stream(
        self, frames: Frames, *, timesteps: int = 0, start_within: float | None = None, priority: int = 0
    ) -> AsyncGenerator[Reply, None]:
        """Advance the state by each frame; yield the replies in order, each exactly once.

        Frames are taken up to the window (`opened.window`) ahead of the replies. A source that waits (a microphone,
        a socket) must be an async iterable. With `timesteps` T >= 1 so many consecutive frames travel as one message
        and come back as one reply, its arrays with a leading axis T (the last one may be shorter). A refused frame
        raises, and the frames behind it are not executed. `start_within` and `priority` are those of each message, as
        for `step`.
        """
        if timesteps > self.opened.max_timesteps:
            raise ValueError(f"the service takes at most {self.opened.max_timesteps} timesteps a message")
        sent: asyncio.Queue[Message | None] = asyncio.Queue()
        room = asyncio.Semaphore(self.opened.window)
        like = new_timestep(timesteps, start_within, priority)
        feeder = asyncio.create_task(self._feed(frames, like, sent, room))
        self._feeders.add(feeder)
        feeder.add_done_callback(lambda _: sent.put_nowait(None))
        message: Message | None = None
        try:
            while (message := await sent.get()) is not None:
                yield await self._deliver(message)
                room.release()
            feeder.result()  # what the source or an input raised
        finally:
            feeder.cancel()
            await asyncio.wait({feeder})
            if not feeder.cancelled():
                feeder.exception()  # seen: what ended the stream is raised already
            self._feeders.discard(feeder)
            while message is not None:  # nobody waits for these any more
                message.answer.cancel()
                message = sent.get_nowait()

    async def _feed(
        self, frames: Frames, like: Timestep, sent: asyncio.Queue[Message | None], room: asyncio.Semaphore
    ) -> None:
        run = Run()
        async with aclosing(grouped(frames, like.timesteps)) as groups:
            async for group in groups:
                frame = stack_frames(group, self._specs) if like.timesteps else group[0]
                timestep = Timestep()
                timestep.CopyFrom(like)
                timestep.timesteps = len(group) if like.timesteps else 0
                await room.acquire()
                sent.put_nowait(await self._submit(timestep, frame, run))

    async def _submit(self, timestep: Timestep, frame: Frame, run: Run | None = None) -> Message:
        timestep.inputs.extend(encode_frame(frame, self._specs))
        return await self._line.submit(timestep, run)

    async def _deliver(self, message: Message) -> Reply:
        reply = await message.answer
        self._delivered = (reply.step, reply.h)
        return Reply.of(reply, self._line.outputs)


def new_timestep(timesteps: int, start_within: float | None, priority: int) -> Timestep:
    """One that has no number and no inputs yet. ValueError for no positive number of seconds."""
    timestep = Timestep(timesteps=timesteps, priority=priority)
    if start_within is not None:
        if not 0 < start_within < _MAX_SECONDS:
            raise ValueError("start_within is a positive number of seconds")
        timestep.timeout.FromNanoseconds(max(round(start_within * 1e9), 1))
    return timestep
