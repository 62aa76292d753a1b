"""One session on a stream of many: its messages in turn, as `Stream` takes them one behind the other.

Knows its session and where answers go; knows neither gRPC nor the other handles.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from cellwire.v1 import cell_service_pb2 as pb
from service.answers import Answers, Recipient
from service.codec import Reply
from service.errors import CellwireError, Overloaded, StateCorrupt, WindowExceeded, internal_error
from service.session import Session
from service.tensors import OutputsEncoder
from service.values import Timestep
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
        "_held",
        "_in_hand",
        "_leave",
        "_turning",
        "_waiting",
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
        self._waiting: list[tuple[int, Message, float]] = []
        """Short; and empty it takes a tenth of a deque's bytes, which counts where most handles are idle."""
        self._in_hand: tuple[int, Message, float]
        """The step that it names, the message, and when it was received."""
        self._turning = False
        self._welcome: Welcome | None = None
        self._held: asyncio.TimerHandle | None = None
        """Of a message that came too early."""

    def begin(self, session: Session, stored: Iterable[Reply]) -> None:
        """The session is open: these stored replies come first, then its messages are taken."""
        self.session = session
        self._encoder = session.cell.encoder(session.options.outputs)
        session.on_lost = self._lost
        self.busy = False
        for reply in stored:
            self._reply(0, reply)
        self._turn()

    def take(self, step: int, message: Message, received: float) -> None:
        """The next message, which names this step and was received then (monotonic). Beyond the window it is refused
        at once, so that the stream need not wait for this handle; but one that closes it is taken."""
        if not self.busy and not self.gone:  # then none waits
            self._start((step, message, received))
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
        step, _, received = self._in_hand
        if isinstance(answer, Reply):
            self._reply(step, answer, received)
        else:
            self._refuse(step, answer)
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
        """Ends the handle without a word."""
        if not self.gone:
            self.gone = True
            self.stop()
            self._leave(self)

    def _turn(self) -> None:
        """Takes what waits, as long as each is answered at once."""
        if self._turning:
            return
        self._turning = True
        while self._waiting and not self.busy:
            self._start(self._waiting.pop(0))
        self._turning = False
        if self.session and self.session.ended and not self.busy and not self.gone:
            self.end(self.session.ended)

    def _start(self, in_hand: tuple[int, Message, float]) -> None:
        assert self.session  # noqa: S101  for the type checker: until it is open, its open is in hand
        self._in_hand = in_hand
        self.busy = True
        message = in_hand[1]
        if isinstance(message, Timestep):
            if self._welcome is None or not self._is_held_back(self._welcome, self.session, message):
                self.session.start(message, self.answered)
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

    def _reply(self, step: int, reply: Reply, received: float | None = None) -> None:
        if reply.replayed:
            try:
                reply = reply._replace(outputs=self._encoder.again(reply.timesteps, reply.outputs))
            except StateCorrupt as error:
                self.end(error, step)
                return
        self._answers.reply(self, (self._encoder, reply.timesteps), reply, received)

    def _refuse(self, step: int, why: BaseException) -> None:
        error = why if isinstance(why, CellwireError) else internal_error(why, METHOD)
        if error.ends_stream:
            self.end(error, step)
            return
        message = self._in_hand[1]
        if isinstance(error, Overloaded) and error.retry_after and isinstance(message, Timestep):
            self._welcome = self._welcome or Welcome()
            self._welcome.sent_away(message.priority, error.retry_after)
        self._answers.refused(self, step, error)
