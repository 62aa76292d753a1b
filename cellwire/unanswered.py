"""The messages of a session that have no answer yet: their numbers, their order, and which goes out next.

Plain bookkeeping without I/O. The messages that were sent stand before those that were not, because they go out in
order; a message may be taken back only if no replica can have executed it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from cellwire.v1 import cell_service_pb2


@dataclass(eq=False, slots=True)
class Run:
    """Messages that were given one behind the other: if one is refused for good, none behind it is executed."""

    refusal: BaseException | None = None


@dataclass(eq=False, slots=True)
class Message:
    """One timestep, or T consecutive ones, on its way to a reply."""

    request: cell_service_pb2.StreamRequest
    steps: int
    """How many numbers it takes: T, at least 1."""
    answer: "asyncio.Future[cell_service_pb2.Reply]"
    since: float
    """When the application gave it; the event loop's clock."""
    run: Run | None = None
    sent_step: int = 0
    """The number under which the current stream got it, should it have another one by now."""
    on_stream: bool = False
    """Sent on the current stream, which has not answered it."""
    in_doubt: bool = False
    """Sent on an earlier stream, which ended before it answered."""
    answered_h: bytes = b""
    """The digest that its reply told, if it was answered before the store fell back: the application has that reply."""

    @property
    def timeout(self) -> float | None:
        """Seconds within which it must be started; None: no limit."""
        told = self.request.timestep.timeout
        return told.seconds + told.nanos / 1e9 if self.request.timestep.HasField("timeout") else None

    @property
    def step(self) -> int:
        """The number of its first timestep."""
        return self.request.timestep.step

    @property
    def last_step(self) -> int:
        """The number of its last timestep: that of its reply."""
        return self.request.timestep.step + self.steps - 1


class Unanswered:
    """Numbers messages from the one after `received_step` on and keeps them until they are answered."""

    def __init__(self, received_step: int, settled: Callable[[], None] = lambda: None) -> None:
        self.received_step = received_step
        self._messages: deque[Message] = deque()
        self.going_back = False
        """A message was refused, and what is behind it on the stream will be."""
        self.window = 1
        """The most messages that the stream may owe an answer to."""
        self._settled = settled
        """Called for each message that is no longer unanswered and was never answered before."""

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    @property
    def oldest(self) -> Message | None:
        """The one whose answer must come first."""
        return self._messages[0] if self._messages else None

    @property
    def on_stream(self) -> bool:
        """Whether the current stream owes an answer."""
        return any(message.on_stream for message in self._messages)

    def add(self, message: Message) -> None:
        """The message gets the next number."""
        behind = self._messages[-1].last_step if self._messages else self.received_step
        message.request.timestep.step = behind + 1
        self._messages.append(message)

    def take(self) -> Message | None:
        """The next message to send on the current stream; None while there is none, or while going back."""
        if self.going_back:
            if self.on_stream:
                return None
            self.going_back = False
        self._take_back()
        for message in islice(self._messages, self.window):
            if not message.on_stream:
                message.on_stream, message.sent_step = True, message.step
                return message
        return None

    def answered(self, step: int) -> Message | None:
        """The message whose reply has this number; None for a step that was answered before.

        ValueError for a reply out of its turn.
        """
        if step <= self.received_step:
            return None
        message = self.oldest
        if message is None or message.last_step != step:
            raise ValueError(f"a reply to step {step}, out of its turn")
        self.received_step = step
        self._remove(message)
        return message

    def fall_back(self, step: int, again: Sequence[Message]) -> None:
        """The session stands at an earlier step: the messages behind it, answered before, come first once more."""
        self._messages.extendleft(reversed(again))
        self.received_step = step

    def sent_at(self, step: int) -> Message | None:
        """The message that the current stream got under this number and still owes an answer to."""
        return next((each for each in self._messages if each.on_stream and each.sent_step == step), None)

    def may_have_reached(self, step: int) -> bool:
        """Whether a message in doubt ends with this number."""
        return any(message.in_doubt and message.last_step == step for message in self._messages)

    def go_back(self, message: Message) -> None:
        """The session stands before this message: send it again, once the stream has refused what is behind it too."""
        message.on_stream = False
        self.going_back = True
        for later in self._messages:
            if later.step >= message.step:
                later.in_doubt = False

    def withdraw(self, message: Message, refusal: BaseException) -> None:
        """The message was refused for good: its number goes to the next one that is not of the same run."""
        self.go_back(message)
        if message.run is not None:
            message.run.refusal = refusal
        for later in self._messages:
            if later is not message and message.run is not None and later.run is message.run:
                later.answer.cancel()
        if not message.answer.done():
            message.answer.set_exception(refusal)
            message.answer.exception()  # seen, also if nobody asks for it any more
        self._remove(message)
        self._number_again()

    def stream_ended(self) -> None:
        """What the stream did not answer is in doubt, and to be sent again on the next one."""
        reached = True  # not behind one that was refused or never sent
        for message in self._messages:
            reached = reached and (message.in_doubt or message.on_stream)
            message.in_doubt, message.on_stream = reached, False
        self.going_back = False

    def fail(self, error: BaseException) -> bool:
        """Every waiter gets this error. Says whether there was one."""
        told = False
        while self._messages:
            message = self._messages.popleft()
            if not message.answer.done():
                message.answer.set_exception(error)
                message.answer.exception()  # seen: of many waiters only one may be asked
                told = True
            self._settle(message)
        return told

    def _take_back(self) -> None:
        """Drop what nobody waits for any more and no replica can have executed."""
        dropped = [
            message
            for message in self._messages
            if message.answer.cancelled() and not message.on_stream and not message.in_doubt
        ]
        for message in dropped:
            self._remove(message)
        if dropped:
            self._number_again()

    def _number_again(self) -> None:
        step = self.received_step
        for message in self._messages:
            message.request.timestep.step = step + 1
            step = message.last_step

    def _remove(self, message: Message) -> None:
        self._messages.remove(message)
        self._settle(message)

    def _settle(self, message: Message) -> None:
        if not message.answered_h:
            self._settled()
