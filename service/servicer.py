"""CellService: decode, call, encode. What a message does stands in `session`."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, suppress
from math import inf
from typing import Any

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc
from service import failpoints, metrics
from service.admission import Cap
from service.calls import Calls
from service.codec import (
    Unreadable,
    decode_open,
    decode_stream,
    decode_timestep,
    encode_notice,
    encode_refused,
    encode_reply,
    encode_status,
    first_message,
    reply_message,
)
from service.errors import AlreadyOpen, CellwireError, Draining, Overloaded
from service.many import ManyStream
from service.openings import close, opened_message
from service.session import Session
from service.sessions import Sessions
from service.tensors import invalid
from service.values import Timestep
from service.welcome import Welcome

HEAR_OUT_SECONDS = 1.0
LONGEST_CALL = 10.0
"""Seconds that a unary call without a deadline may wait for its session."""


class LiveStream:
    """One stream of the service, which may be ended from outside between two messages."""

    def __init__(self) -> None:
        self.ended: CellwireError | None = None
        self.waiting = False
        """For the client's next message: the only place where it may be interrupted."""
        self.welcome = Welcome()
        self._task = asyncio.current_task()

    async def hold_back(self, message: pb.Timestep, received: float) -> None:
        """Keeps who comes too early waiting until it may come, and sends it away unexecuted.

        Raises:
            Overloaded: come again in the time that is left, if any.
        """
        timeout = message.timeout  # not checked yet
        patience = timeout.seconds + timeout.nanos / 1e9 if message.HasField("timeout") else inf
        self.waiting = True
        await asyncio.sleep(self.welcome.wait(received, patience))
        self.waiting = False
        raise self.welcome.too_early()

    def end(self, error: CellwireError) -> None:
        """Ends the stream with this error: now if it waits for a message, else behind the one in hand."""
        if self.ended is None:
            self.ended = error
            if self.waiting and self._task:
                self._task.cancel()

    def was_interrupted(self) -> bool:
        """True if a cancellation that was just caught is `end`'s and not the client's; it is taken back."""
        if self.ended is None or self._task is None:
            return False
        self._task.uncancel()
        return True


class CellServicer(cell_service_pb2_grpc.CellServiceServicer):
    """Streams and unary steps."""

    def __init__(self, sessions: Sessions, calls: Calls, max_streams: int, max_sessions: int) -> None:
        self._sessions = sessions
        self._calls = calls
        self._stream_cap = Cap("max_streams", max_streams)
        self._session_cap = Cap("max_sessions", max_sessions)
        self.streams: set[LiveStream | ManyStream] = set()
        """Live ones; a drain waits until there are none."""
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

    async def Stream(  # type: ignore[override]  # noqa: N802  replies go out as bytes
        self, request_iterator: AsyncIterator[pb.StreamRequest | Unreadable], context: Any
    ) -> AsyncIterator[pb.StreamResponse | bytes]:
        """One session: Open, then one reply a message, until the client ends it or its claim is lost."""
        messages, stream, caps = aiter(request_iterator), LiveStream(), ExitStack()
        await self._let_in(messages, caps)
        self.streams.add(stream)
        session: Session | None = None
        try:
            stream.waiting = True
            first = await anext(messages, None)
            stream.waiting = False
            if first is None:
                return
            message = first_message(first)
            request = decode_open(message)
            caps.enter_context(self._session_cap.one())
            self._sessions.admit(request)
            opened = await self._sessions.open(request)
            session = opened.session
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
                response = await self._answer(session, stream, received)
                yield response
                if not isinstance(response, bytes) and _keeps(received):
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
            self.streams.discard(stream)
            caps.close()
            self._left.set()
            if session is not None:
                self._sessions.leave(session)
        if stream.ended:
            if session is not None:
                yield encode_notice(stream.ended)
            raise stream.ended

    async def _answer(
        self, session: Session, stream: LiveStream, message: pb.StreamRequest | Unreadable
    ) -> pb.StreamResponse | bytes:
        """The response to one message; raises only what ends the stream."""
        step = 0
        try:
            request = decode_stream(message)
            kind = request.WhichOneof("kind")
            if kind == "timestep":
                received = time.monotonic()
                timestep = request.timestep
                step = timestep.step
                if session.follows(step):
                    if stream.welcome.is_early(timestep.priority, received):
                        await stream.hold_back(timestep, received)
                    session.cell.admission.check(timestep.priority)
                reply = await session.step(self._timestep(timestep, session, received))
                metrics.STEP_SECONDS.observe(time.monotonic() - received)
                failpoints.hit("before_encode")
                return encode_reply(reply)
            if kind == "close":
                step = request.close.step
                return pb.StreamResponse(closed=pb.Closed(step=await close(session, request.close)))
            raise AlreadyOpen("a stream opens one session, once")
        except CellwireError as error:
            if error.ends_stream:
                raise
            metrics.REFUSED.labels(error.reason).inc()
            if isinstance(error, Overloaded) and error.retry_after and isinstance(message, pb.StreamRequest):
                stream.welcome.sent_away(message.timestep.priority, error.retry_after)
            return encode_refused(step, error)

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


def _keeps(message: pb.StreamRequest | Unreadable) -> bool:
    """True for a close that ends the stream only."""
    return isinstance(message, pb.StreamRequest) and message.WhichOneof("kind") == "close" and message.close.keep
