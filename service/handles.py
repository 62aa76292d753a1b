"""One session on a stream of many: its messages in turn, as `Stream` takes them one behind the other.

Knows its session and where answers go; knows neither gRPC nor the other handles.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from cellwire.v1 import cell_service_pb2 as pb
from service.answers import Answers, Form, Recipient
from service.codec import Reply
from service.errors import CellwireError, Overloaded, StateCorrupt, WindowExceeded, internal_error
from service.session import Session
from service.tensors import OutputsEncoder
from service.values import Timestep
from service.way import Way
from service.welcome import Welcome

METHOD = "/cellwire.v1.CellService/StreamMany"
"""For the log."""

Message = Timestep | CellwireError | pb.Close
"""What is asked of a session, or why that cannot be done."""


class Handle(Recipient):
    """A session's place on the stream. Promise: each message is answered once and in order, until an answer that ends
    the handle."""

    __slots__ = (
        "_answers",
        "_close",
        "_encoder",
        "_form",
        "_held",
        "_leave",
        "_priority",
        "_received",
        "_step",
        "_turning",
        "_waiting",
        "_way",
        "_welcome",
        "_window",
        "busy",
        "gone",
        "session",
    )

    def __init__(
        self,
        number: int,
        answers: Answers,
        window: int,
        close: Callable[["Handle", pb.Close], None],
        leave: Callable[["Handle"], None],
    ) -> None:
        """`close` closes the session and calls `closed` or `answered`; `leave` is called once, when the handle ends."""
        super().__init__(number)
        self.session: Session | None = None
        """None until it is open."""
        self.busy = True
        """A message is in hand; at first, the open."""
        self.gone = False
        self._answers = answers
        self._window = window
        self._close = close
        self._leave = leave
        self._encoder: OutputsEncoder
        self._form: Form
        self._waiting: list[tuple[int, Message, float]] = []
        """Short; and empty it takes a tenth of a deque's bytes, which counts where most handles are idle."""
        self._step = 0
        """That the message in hand names,"""
        self._priority = 0
        """its priority if it is a timestep,"""
        self._received = 0.0
        """and when it was."""
        self._way: Way[Reply] | None = None
        """The timestep in hand; or the last one, which cannot be left any more."""
        self._turning = False
        self._welcome: Welcome | None = None
        self._held: asyncio.TimerHandle | None = None
        """Of a message that came too early."""

    def begin(self, session: Session, stored: Iterable[Reply]) -> None:
        """The session is open: these stored replies come first, then its messages are taken."""
        self.session = session
        self._encoder = session.cell.encoder(session.options.outputs)
        self._form = (self._encoder, 0)
        session.on_lost = self._lost
        self.busy = False
        for reply in stored:
            self._reply(reply)
        self._turn()

    def take(self, step: int, message: Message, received: float) -> None:
        """The next message, which names this step and was received then (monotonic). Beyond the window it is refused
        at once, so that the stream need not wait for this handle; but one that closes it is taken."""
        if not self.busy and not self.gone:  # then none waits
            self._start(step, message, received)
        elif len(self._waiting) + 1 < self._window + isinstance(message, pb.Close):
            self._waiting.append((step, message, received))
        else:  # out of turn, so of no consequence for what the handle is told next
            too_many = WindowExceeded(f"at most {self._window} messages unanswered")
            self._answers.refused(Recipient(self.number), step, too_many)

    def answered(self, answer: Reply | BaseException) -> None:
        """The message in hand has its answer."""
        self.busy = False
        if self.gone:
            return
        if isinstance(answer, Reply):
            self._reply(answer, self._received)
        else:
            self._refuse(answer)
        if self._waiting or (self.session and self.session.ended):
            self._turn()

    def closed(self, step: int) -> None:
        """The close in hand was done, at this step."""
        self.busy = False
        if not self.gone:
            self._answers.closed(self, step)
            self.leave()

    def end(self, error: CellwireError, step: int = 0) -> None:
        """The session cannot go on here: tells why, with the step that met it."""
        self._answers.refused(self, step, error, ended=True)
        self.leave()

    def stop(self) -> None:
        """What is not in hand is not taken any more."""
        self._waiting.clear()
        if self._held:
            self._held.cancel()
            self._held = None
            self.busy = False

    def leave(self) -> None:
        """Ends the handle without a word; nobody waits for what is in hand."""
        if not self.gone:
            self.gone = True
            self.stop()
            if self._way:
                self._way.leave()
                self._way = None  # it holds this handle
            self._leave(self)

    def _turn(self) -> None:
        """Takes what waits, as long as each is answered at once."""
        if self._turning:
            return
        self._turning = True
        while self._waiting and not self.busy:
            self._start(*self._waiting.pop(0))
        self._turning = False
        if self.session and self.session.ended and not self.busy and not self.gone:
            self.end(self.session.ended)

    def _start(self, step: int, message: Message, received: float) -> None:
        assert self.session  # noqa: S101  for the type checker: until it is open, its open is in hand
        self._step, self._received = step, received
        self.busy = True
        if isinstance(message, Timestep):
            self._priority = message.priority
            if self._welcome is None or not self._is_held_back(self._welcome, self.session, message):
                self._way = self.session.start(message, self.answered)
        elif isinstance(message, CellwireError):
            self.answered(message)
        else:
            self._close(self, message)

    def _is_held_back(self, welcome: Welcome, session: Session, message: Timestep) -> bool:
        """A message that comes too early is kept waiting, with all that is behind it."""
        now = time.monotonic()
        if not session.follows(message.step) or not welcome.is_early(message.priority, now):
            return False
        wait = welcome.wait(now, message.deadline - now)
        self._held = asyncio.get_running_loop().call_later(wait, self._too_early, welcome)
        return True

    def _lost(self, _: CellwireError) -> None:
        self.stop()
        self._turn()

    def _too_early(self, welcome: Welcome) -> None:
        self._held = None
        self.answered(welcome.too_early())

    def _reply(self, reply: Reply, received: float | None = None) -> None:
        if reply.replayed:
            try:
                reply = reply._replace(outputs=self._encoder.again(reply.timesteps, reply.outputs))
            except StateCorrupt as error:
                self.end(error, self._step)
                return
        if self._form[1] != reply.timesteps:
            self._form = (self._encoder, reply.timesteps)
        self._answers.reply(self, self._form, reply, received)

    def _refuse(self, why: BaseException) -> None:
        error = why if isinstance(why, CellwireError) else internal_error(why, METHOD)
        if error.ends_stream:
            self.end(error, self._step)
            return
        if isinstance(error, Overloaded) and error.retry_after:
            self._welcome = self._welcome or Welcome()
            self._welcome.sent_away(self._priority, error.retry_after)
        self._answers.refused(self, self._step, error)
