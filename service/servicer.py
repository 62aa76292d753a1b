"""CellService: decode, call, encode. What a message does stands in `session`."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, suppress
from typing import Any

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc
from service import failpoints, metrics
from service.admission import Cap
from service.calls import Calls
from service.codec import (
    Unreadable,
    decode_open,
    decode_timestep,
    encode_notice,
    encode_reply,
    encode_status,
    first_message,
    read_stream,
    reply_message,
)
from service.errors import AlreadyOpen, CellwireError, Draining
from service.many import ManyStream
from service.openings import close, opened_message
from service.session import Session
from service.sessions import Sessions
from service.stream import LiveStream
from service.tensors import invalid
from service.turn import Turn
from service.values import Timestep

HEAR_OUT_SECONDS = 1.0
LONGEST_CALL = 10.0
"""Seconds that a unary call without a deadline may wait for its session."""


class CellServicer(cell_service_pb2_grpc.CellServiceServicer):
    """Streams and unary steps."""

    def __init__(self, sessions: Sessions, calls: Calls, max_streams: int, max_sessions: int) -> None:
        self._sessions = sessions
        self._calls = calls
        self._stream_cap = Cap("max_streams", max_streams)
        self._session_cap = Cap("max_sessions", max_sessions)
        self.streams: set[LiveStream | ManyStream] = set()
        """Live ones; a drain waits until there are none."""
        self._turn = Turn(LiveStream.take)
        self._running_calls = 0
        self._left = asyncio.Event()

    @property
    def live(self) -> int:
        """Streams and calls in hand."""
        return len(self.streams) + self._running_calls

    async def emptied(self) -> None:
        """Returns once nothing is in hand."""
        while self.live:
            self._left.clear()
            await self._left.wait()

    async def Stream(  # type: ignore[override]  # noqa: N802  messages come in and replies go out as bytes
        self, request_iterator: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[pb.StreamResponse | bytes]:
        """One session: Open, then one reply a message, until the client ends it or its claim is lost."""
        messages, caps = aiter(request_iterator), ExitStack()
        stream = LiveStream(self._turn, self._sessions.terms.max_timesteps)
        await self._let_in(messages, caps)
        self.streams.add(stream)
        session: Session | None = None
        try:
            stream.waiting = True
            first = await anext(messages, None)
            stream.waiting = False
            if first is None:
                return
            message = first_message(read_stream(first))
            request = decode_open(message)
            caps.enter_context(self._session_cap.one())
            self._sessions.admit(request)
            opened = await self._sessions.open(request)
            session = stream.session = opened.session
            session.on_lost = stream.end
            self._sessions.hold(session)
            yield pb.StreamResponse(opened=opened_message(opened, self._sessions.terms, message.metadata))
            if message.HasField("replies_after"):
                for reply in session.replies_after(message.replies_after):
                    yield encode_reply(reply)
            while not stream.ended:
                stream.waiting = True
                received = await anext(messages, None)
                stream.waiting = False
                if received is None:
                    return
                answer = await stream.ask(received)
                if isinstance(answer, bytes):
                    failpoints.hit("before_encode")
                    yield answer
                else:
                    yield await self._take_time(session, stream, answer)
                    if answer.close.keep:
                        return
        except asyncio.CancelledError:
            if not stream.was_interrupted():
                raise
        except CellwireError as error:
            if session is None:
                raise
            stream.ended = error  # what the step met counts for more than a drain that came meanwhile
        finally:
            stream.waiting = False
            stream.leave()
            self.streams.discard(stream)
            caps.close()
            self._left.set()
            if session is not None:
                self._sessions.leave(session)
        if stream.ended:
            if session is not None:
                yield encode_notice(stream.ended)
            raise stream.ended

    async def _take_time(
        self, session: Session, stream: LiveStream, message: pb.StreamRequest
    ) -> pb.StreamResponse | bytes:
        """The response to a message that is answered by more than a timestep; raises only what ends the stream."""
        try:
            match message.WhichOneof("kind"):
                case "timestep":
                    await stream.hold_back(message.timestep)
                case "close":
                    stream.step = message.close.step
                    return pb.StreamResponse(closed=pb.Closed(step=await close(session, message.close)))
                case _:
                    raise AlreadyOpen("a stream opens one session, once")
        except CellwireError as error:
            if error.ends_stream:
                raise
            return stream.refused(error)

    async def Step(self, request: pb.StepRequest, context: Any) -> pb.StepResponse:  # noqa: N802
        """One message of a session without a stream."""
        if self._sessions.draining:
            raise Draining("this replica is going", retry_after=0.0)
        if not request.HasField("open"):
            raise invalid("open", "the session")
        if not request.HasField("timestep"):
            raise invalid("timestep", "the message")
        received = time.monotonic()
        remaining = context.time_remaining()
        deadline = received + (LONGEST_CALL if remaining is None else min(remaining, LONGEST_CALL))

        def decode(session: Session) -> Timestep:
            timestep = self._timestep(request.timestep, session, received)
            return timestep._replace(deadline=min(timestep.deadline, deadline))

        self._running_calls += 1
        try:
            opened, reply = await self._calls.step(decode_open(request.open), decode, deadline)
        finally:
            self._running_calls -= 1
            self._left.set()
        metrics.STEP_SECONDS.observe(time.monotonic() - received)
        told = opened_message(opened, self._sessions.terms, request.open.metadata)
        return pb.StepResponse(opened=told, reply=reply_message(reply))

    async def StreamMany(  # type: ignore[override]  # noqa: N802  replies go out as bytes
        self, request_iterator: AsyncIterator[pb.StreamManyRequest | Unreadable], context: Any
    ) -> AsyncIterator[pb.StreamManyResponse | bytes]:
        """Many sessions on one stream, each answered and failing by itself."""
        messages, caps = aiter(request_iterator), ExitStack()
        await self._let_in(messages, caps)
        stream = ManyStream(self._sessions, self._session_cap)
        self.streams.add(stream)
        try:
            async with aclosing(stream.responses(messages)) as responses:
                async for response in responses:
                    failpoints.hit("before_encode")
                    yield response
        finally:
            self.streams.discard(stream)
            caps.close()
            self._left.set()
        if stream.ended:
            yield pb.StreamManyResponse(notice=pb.Notice(status=encode_status(stream.ended)))
            raise stream.ended

    async def _let_in(self, messages: AsyncIterator[object], caps: ExitStack) -> None:
        """Counts one more stream, until the stack is closed.

        Raises:
            Draining, Quota: it is refused, after its first message: a client whose write fails is not given the reason.
        """
        try:
            if self._sessions.draining:
                raise Draining("this replica is going", retry_after=0.0)
            caps.enter_context(self._stream_cap.one())
        except CellwireError:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEAR_OUT_SECONDS):
                    await anext(messages, None)
            raise

    def _timestep(self, message: pb.Timestep, session: Session, received: float) -> Timestep:
        max_timesteps = self._sessions.terms.max_timesteps
        return decode_timestep(message, session.cell.spec, session.unnumbered, max_timesteps, received)
