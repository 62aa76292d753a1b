"""The tail of a session's history: answered messages whose inputs are kept, should the store fall back behind them.

Plain bookkeeping without I/O. It knows no replies: the application has them.
"""

from collections import deque
from itertools import takewhile
from typing import NamedTuple

from cellwire.errors import LineageMismatch, Position, StateRegressed
from cellwire.resume import Checkpoint
from cellwire.unanswered import Message
from cellwire.v1.cell_service_pb2 import StreamRequest


class Answered(NamedTuple):
    """A message, and the digest of the history that ends with it."""

    request: StreamRequest
    steps: int
    h: bytes
    size: int

    @property
    def checkpoint(self) -> Checkpoint:
        """The step and digest that its reply told."""
        return self.request.timestep.step + self.steps - 1, self.h


class Tail:
    """The last answered messages without a gap: all that are not durable, before them as many as the limits allow."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[Answered] = deque()
        self._bytes = 0
        self._before: Checkpoint = (0, b"")

    def __len__(self) -> int:
        return len(self._messages)

    def begin(self, checkpoint: Checkpoint) -> None:
        """Nothing is kept yet; the session goes on from here."""
        self._before = checkpoint

    def add(self, message: Message, h: bytes, durable_step: int) -> None:
        """The next message, which was answered with this digest; the store holds the session up to `durable_step`."""
        answered = Answered(message.request, message.steps, h, message.request.ByteSize())
        self._messages.append(answered)
        self._bytes += answered.size
        while self._messages and self._messages[0].checkpoint[0] <= durable_step and self._is_too_long():
            oldest = self._messages.popleft()
            self._bytes -= oldest.size
            self._before = oldest.checkpoint

    def above(self, step: int) -> list[Checkpoint]:
        """The checkpoints above a step."""
        newest_first = (answered.checkpoint for answered in reversed(self._messages))
        return list(takewhile(lambda checkpoint: checkpoint[0] > step, newest_first))[::-1]

    def back_to(self, place: Position) -> list[Answered]:
        """Give up and return the messages behind the place where the session stands now, in order.

        Raises:
            LineageMismatch: the history of this client went another way to that step.
            StateRegressed: not every message behind it is kept.
        """
        known = dict([self._before, *self.above(0)])
        if place.step not in known:
            raise StateRegressed(
                f"the store fell back to step {place.step}, and not all inputs behind it are kept", position=place
            )
        if known[place.step] != place.h:
            raise LineageMismatch("the store fell back to a step with another history", position=place)
        again: deque[Answered] = deque()
        while self._messages and self._messages[-1].checkpoint[0] > place.step:
            newest = self._messages.pop()
            self._bytes -= newest.size
            again.appendleft(newest)
        return list(again)

    def _is_too_long(self) -> bool:
        return len(self._messages) > self._max_messages or self._bytes > self._max_bytes
