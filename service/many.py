"""A stream of many sessions: reads messages, gives each of their parts to its handle, sends what the handles answer.

What one session does on it stands in `handles`, how answers are gathered in `answers`, the columns in `columns`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, repeat
from typing import Any

from cellwire.v1 import cell_service_pb2 as pb
from service.admission import Cap
from service.answers import Answers, Recipient
from service.codec import Unreadable, decode_open, readable
from service.columns import decode_columns
from service.errors import AlreadyOpen, CellwireError, InvalidInput, OpenExpected, internal_error
from service.handles import METHOD, Handle, Message
from service.openings import close, opened_message
from service.sessions import Sessions
from service.tensors import invalid
from service.values import Timestep

Messages = AsyncIterator[pb.StreamManyRequest | Unreadable]
MAX_OPENS = 1024
"""In hand at once: the rest of a message waits."""
MAX_OTHERS = 1 << 16
"""Handles that are not counted up, which have to be kept."""
ROWS_A_TURN = 1024
"""Of columns, until the event loop has others take their turn."""
NOT_OPEN = OpenExpected("handle: not open on this stream")
UNNUMBERED = invalid("step", "0 in a session opened unnumbered")
NUMBERED = invalid("step", "from 1; unnumbered is chosen at open")


class UsedHandles:
    """The handles that a stream has had. Of a client that counts up, only the last one is kept."""

    def __init__(self) -> None:
        self._first = self._next = 0
        """Those from the first one up to here were counted up."""
        self._others: set[int] = set()

    def __len__(self) -> int:
        return self._next - self._first + len(self._others)

    def add(self, handle: int) -> None:
        """One more.

        Raises:
            AlreadyOpen: it was there before.
            InvalidInput: too many are in no order.
        """
        if not self:
            self._first = self._next = handle
        if self._first <= handle < self._next or handle in self._others:
            raise AlreadyOpen("handle: one that this stream has not had")
        if len(self._others) >= MAX_OTHERS:
            raise invalid("handle", f"counted up, but for {MAX_OTHERS}")
        self._others.add(handle)
        while self._next in self._others:
            self._others.remove(self._next)
            self._next += 1


class ManyStream:
    """One stream of many sessions, which may be ended from outside."""

    def __init__(self, sessions: Sessions, session_cap: Cap) -> None:
        self.ended: CellwireError | None = None
        self._sessions = sessions
        self._session_cap = session_cap
        self._answers = Answers(sessions.terms.max_message_bytes)
        self._handles: dict[int, Handle] = {}
        """Those that are not gone."""
        self._used = UsedHandles()
        self._tasks: set[asyncio.Task[None]] = set()
        """Opens and closes."""
        self._opens = asyncio.Semaphore(MAX_OPENS)
        self._rows = 0
        """Taken in this turn of the event loop."""
        self._reader: asyncio.Task[None] | None = None

    async def responses(self, messages: Messages) -> AsyncGenerator[bytes, None]:
        """Serialized StreamManyResponses. Ends behind the last answer, once the client sends no more or `end` was
        called; then all sessions are left."""
        reader = self._reader = asyncio.create_task(self._read(messages))
        reader.add_done_callback(lambda _: self._answers.nudge())
        try:
            while not (reader.done() and self._is_idle()):
                await self._answers.news()
                for response in self._answers.take():
                    yield response
            if not reader.cancelled():
                reader.result()
        finally:
            for task in (reader, *self._tasks):
                task.cancel()
            for handle in tuple(self._handles.values()):
                handle.leave()

    def end(self, error: CellwireError) -> None:
        """Ends the stream with this error, behind what is in hand; what waits is not taken any more."""
        if self.ended is None:
            self.ended = error
            if self._reader:
                self._reader.cancel()
            for handle in tuple(self._handles.values()):
                handle.stop()
            self._answers.nudge()

    def _is_idle(self) -> bool:
        return not self._answers and not any(handle.busy for handle in self._handles.values())

    async def _read(self, messages: Messages) -> None:
        try:
            while (message := await anext(messages, None)) is not None:
                await self._take(message)
        except CellwireError as error:
            self.end(error)

    async def _take(self, message: pb.StreamManyRequest | Unreadable) -> None:
        received = time.monotonic()
        readable(message)
        assert isinstance(message, pb.StreamManyRequest)  # noqa: S101  for the type checker: it is readable
        for opening in message.opens:
            await self._opens.acquire()
            await self._give_way(1)
            self._open(opening)
        for columns in message.timesteps:
            await self._give_way(len(columns.handles))
            self._step(columns, received)
        for closing in message.closes:
            await self._give_way(1)
            self._ask_close(closing, received)

    async def _give_way(self, rows: int) -> None:
        """Before so many rows are taken: a long message is no reason for others to wait, and none is taken while the
        client leaves too many answers unread."""
        await self._answers.room()
        self._rows += rows
        if self._rows > ROWS_A_TURN:
            self._rows = 0
            await asyncio.sleep(0)

    # opens

    def _open(self, message: pb.HandleOpen) -> None:
        number = message.handle
        try:
            self._used.add(number)
        except CellwireError as error:
            self._answers.refused(Recipient(number), 0, error, ended=number not in self._handles)
            self._opens.release()
            return
        caps = ExitStack()
        window = self._sessions.terms.window
        handle = Handle(number, self._answers, window, self._close, partial(self._leave, caps))
        self._handles[number] = handle
        self._spawn(self._claim(handle, message.open, caps)).add_done_callback(lambda _: self._opens.release())

    async def _claim(self, handle: Handle, message: pb.Open, caps: ExitStack) -> None:
        try:
            request = decode_open(message)
            caps.enter_context(self._session_cap.one())
            self._sessions.admit(request)
            opened = await self._sessions.open(request)
        except CellwireError as error:
            handle.end(error)
            return
        except Exception as error:
            handle.end(internal_error(error, METHOD))
            return
        session = opened.session
        self._answers.opened(handle, opened_message(opened, self._sessions.terms, message.metadata))
        self._sessions.hold(session)
        handle.begin(session, () if request.replies_after is None else session.replies_after(request.replies_after))

    # timesteps

    def _step(self, columns: pb.TimestepColumns, received: float) -> None:
        if not 0 < len(columns.handles) <= max(len(self._used), ROWS_A_TURN):
            raise invalid("timesteps.handles", "at least one, and no more than this stream has had")
        handles = [*map(self._handles.get, columns.handles)]
        try:
            messages: Iterable[Message] = self._decoded(columns, handles, received)
        except InvalidInput as error:
            messages = repeat(error)
        steps = chain(columns.steps, repeat(0))
        for number, handle, step, message in zip(columns.handles, handles, steps, messages, strict=False):
            if handle is None or handle.session is None:
                self._answers.refused(handle or Recipient(number), step, NOT_OPEN, ended=handle is None)
            elif isinstance(message, Timestep) and handle.session.unnumbered is (step > 0):
                handle.take(step, UNNUMBERED if step else NUMBERED, received)
            else:
                handle.take(step, message, received)

    def _decoded(
        self, columns: pb.TimestepColumns, handles: Sequence[Handle | None], received: float
    ) -> list[Timestep | InvalidInput]:
        cells = {handle.session.cell for handle in handles if handle and handle.session}
        if len(cells) != 1:
            raise invalid("timesteps.handles", "open ones of one model")
        (cell,) = cells
        return decode_columns(columns, cell.spec, self._sessions.terms.max_timesteps, received)

    # closes

    def _ask_close(self, message: pb.HandleClose, received: float) -> None:
        handle, close = self._handles.get(message.handle), message.close
        if handle is None:
            self._answers.refused(Recipient(message.handle), close.step, NOT_OPEN, ended=True)
        elif not message.HasField("close"):
            handle.take(0, invalid("closes.close", "how to close the session"), received)
        else:
            handle.take(close.step, close, received)

    def _close(self, handle: Handle, message: pb.Close) -> None:
        self._spawn(self._closed(handle, message))

    async def _closed(self, handle: Handle, message: pb.Close) -> None:
        assert handle.session  # noqa: S101  for the type checker: only what is open is closed
        try:
            step = await close(handle.session, message)
        except Exception as error:
            handle.answered(error)
        else:
            handle.closed(step)

    def _leave(self, caps: ExitStack, handle: Handle) -> None:
        del self._handles[handle.number]
        caps.close()
        if handle.session:
            self._sessions.leave(handle.session)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
