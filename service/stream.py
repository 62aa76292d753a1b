"""One session on a stream of its own: the message in hand, from its bytes to the bytes of its answer.

Knows its session and the message types; knows neither gRPC nor other streams. What takes time is left to the stream's
task: a close, and who comes too early.
"""

import asyncio
import time
from math import inf
from typing import NoReturn

from cellwire.v1 import cell_service_pb2 as pb
from service import metrics
from service.codec import Reply, Unreadable, decode_stream, decode_timestep, encode_refused, encode_reply, read_stream
from service.errors import CellwireError, Overloaded
from service.session import Session
from service.turn import Turn
from service.way import Way
from service.welcome import Welcome


class LiveStream:
    """One stream of the service, which may be ended from outside between two messages."""

    def __init__(self, turn: "Turn[LiveStream]", max_timesteps: int) -> None:
        """`turn` calls `take`."""
        self.ended: CellwireError | None = None
        self._interrupted = False
        """By `end`, which cancelled its task."""
        self.waiting = False
        """For the client's next message: the only place where it may be interrupted."""
        self._welcome: Welcome | None = None
        """None: nothing was refused for load."""
        self.session: Session | None = None
        """None until it is open."""
        self.step = self.priority = 0
        """Of the timestep in hand, as it names them."""
        self._turn = turn
        self._max_timesteps = max_timesteps
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._message = b""
        self._received = 0.0
        self._answer: asyncio.Future[bytes | pb.StreamRequest]
        self._way: Way[Reply] | None = None

    def ask(self, message: bytes) -> "asyncio.Future[bytes | pb.StreamRequest]":
        """The serialized answer to a serialized message, or the message itself if it takes time; a CellwireError that
        ends the stream is raised."""
        self._message = message
        self.step = self.priority = 0
        self._answer = self._loop.create_future()
        self._turn.put(self)
        return self._answer

    def take(self) -> None:
        """Checks the message in hand and sets it on its way."""
        session = self.session
        if session is None or self._answer.done():
            return
        received = self._received = time.monotonic()
        raw, self._message = self._message, b""  # an idle stream keeps no message
        try:
            request = read_stream(raw)
            if isinstance(request, Unreadable) or not request.HasField("timestep"):
                self._answer.set_result(decode_stream(request))
                return
            message, cell = request.timestep, session.cell
            self.step, self.priority = message.step, message.priority
            if session.follows(self.step):
                if self._welcome and self._welcome.is_early(self.priority, received):
                    self._answer.set_result(request)
                    return
                cell.admission.check(self.priority)
            timestep = decode_timestep(message, cell.spec, session.unnumbered, self._max_timesteps, received)
        except Exception as error:
            self._answered(error)
        else:
            self._way = session.start(timestep, self._answered)

    def _answered(self, answer: Reply | BaseException) -> None:
        if self._answer.done():
            return
        if isinstance(answer, Reply):
            metrics.STEP_SECONDS.observe(time.monotonic() - self._received)
            self._answer.set_result(encode_reply(answer))
        elif isinstance(answer, CellwireError) and not answer.ends_stream:
            self._answer.set_result(self.refused(answer))
        else:
            self._answer.set_exception(answer)

    def refused(self, why: CellwireError) -> bytes:
        """The serialized answer to a message in hand that was not executed."""
        metrics.REFUSED.labels(why.reason).inc()
        if isinstance(why, Overloaded) and why.retry_after:
            self._welcome = self._welcome or Welcome()
            self._welcome.sent_away(self.priority, why.retry_after)
        return encode_refused(self.step, why).SerializeToString()

    def leave(self) -> None:
        """Nobody waits for what is in hand."""
        if self._way:
            self._way.leave()
            self._way = None  # it holds this stream

    async def hold_back(self, message: pb.Timestep) -> NoReturn:
        """Keeps who comes too early waiting until it may come, and sends it away unexecuted.

        Raises:
            Overloaded: come again in the time that is left, if any.
        """
        assert self._welcome  # noqa: S101  for the type checker: only who was sent away comes too early
        timeout = message.timeout  # not checked yet
        patience = timeout.seconds + timeout.nanos / 1e9 if message.HasField("timeout") else inf
        self.waiting = True
        await asyncio.sleep(self._welcome.wait(self._received, patience))
        self.waiting = False
        raise self._welcome.too_early()

    def end(self, error: CellwireError) -> None:
        """Ends the stream with this error: now if it waits for a message, else behind the one in hand."""
        if self.ended is None:
            self.ended = error
            if self.waiting and self._task:
                self._interrupted = self._task.cancel()

    def was_interrupted(self) -> bool:
        """True if a cancellation that was just caught is `end`'s and not the client's; it is taken back."""
        if not self._interrupted or self._task is None:
            return False
        self._task.uncancel()
        return True
