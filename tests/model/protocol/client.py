"""A client that numbers its messages, and what it makes of each response: cellwire/line.py, standing.py, unanswered.py.

It adopts digests as it is told them, as the library does; the observer knows what they ought to be.
"""

from dataclasses import dataclass
from enum import Enum

from tests.model.protocol.items import Chain, Mode, Point
from tests.model.protocol.replica import Closed, Failed, Message, Opened, Refused, Reply, Response, Session
from tests.model.protocol.rules import Rules


class Kind(Enum):
    """How a client works."""

    STREAM = "stream"
    UNARY = "unary"
    FACADE = "facade"
    """Unary calls without a resume point; a session is begun anew by a restart."""
    UNNUMBERED = "unnumbered"
    """Unary calls without numbers, each with an input of its own: this client never asks again."""


ENDS = frozenset(
    {
        "SUPERSEDED",
        "SESSION_CLOSED",
        "SESSION_EXISTS",
        "SESSION_UNKNOWN",
        "INCARNATION_MISMATCH",
        "LINEAGE_MISMATCH",
        "STEP_TOO_OLD",
        "STEP_CONFLICT",
        "SESSION_EXPIRED_OR_LOST",
        "STORE_LOST",
        "LAST_STEP_MISMATCH",
    }
)
"""Reasons that surface: the client stops. After the others it opens again."""


@dataclass
class Sent:
    """A message in the client's log."""

    message: Message
    on_stream: bool = False
    in_doubt: bool = False
    """Sent on an earlier stream, which ended before it answered."""


class Client:
    """One program with one session after the other, each with a token of its own."""

    def __init__(
        self, name: str, kind: Kind, rules: Rules, write_behind: bool = False, with_token: bool = True
    ) -> None:
        self.name = name
        self.kind = kind
        self.rules = rules
        self.write_behind = write_behind
        self.with_token = with_token
        self.skips = False
        """It gives up replies that the ring no longer has."""
        self.lives = 0
        self.attempts = 0
        self.begin()

    def begin(self) -> None:
        """A new session: another token, nothing known."""
        self.lives += 1
        self.token = f"{self.name}{'+' * (self.lives - 1)}" if self.with_token else ""
        self.log: list[Sent] = []
        self.received = 0
        self.told: dict[int, Chain] = {}
        """Digests by step, as told: at the ends of messages."""
        self.durable = 0
        self.resend_from = 0
        """What is behind it has no reply of the current stream yet."""
        self.found = 0
        self.store_id = 0
        self.incarnation = ""
        self.accept: tuple[int, Chain] | None = None
        self.skip_lost = False
        self.ahead: tuple[int, Chain] | None = None
        self.delivered: dict[Chain, str] = {}
        """The output of the first reply to each digest."""
        self.session: Session | None = None
        self.opened = False
        self.going_back = False
        self.restarting = self.kind is Kind.FACADE
        self.closing = False
        self.tried_close = False
        self.closed = False
        self.failure = ""

    # what it sends

    @property
    def knows(self) -> bool:
        """It was opened once."""
        return bool(self.told)

    @property
    def steps(self) -> int:
        """The last step that it has numbered."""
        return self.log[-1].message.last if self.log else max(self.told, default=0)

    @property
    def unanswered(self) -> list[Sent]:
        return [sent for sent in self.log if sent.message.last > self.received]

    def mode(self) -> Mode:
        """Of its next open."""
        if self.restarting:
            return Mode.RESTART
        return Mode.RESUME if self.received or (self.knows and not self.with_token) else Mode.EITHER

    def point(self) -> Point | None:
        """The resume point of its next open."""
        if not self.knows or self.kind in (Kind.FACADE, Kind.UNNUMBERED):
            return None
        undurable: tuple[tuple[int, Chain], ...] = ()
        if self.write_behind:
            undurable = tuple((step, h) for step, h in self.told.items() if self.durable <= step <= self.received)
        h = self.told[self.received]
        point = (self.received, h, self.durable, self.store_id, self.incarnation)
        return Point(*point, undurable, self.accept, self.skip_lost)

    def add(self, span: int) -> None:
        """The application gives one more message."""
        first = self.steps + 1
        life = "+" * (self.lives - 1)
        inputs = tuple(f"{self.name}{life}.{step}" for step in range(first, first + span))
        self.log.append(Sent(Message(first, inputs)))

    def call(self, span: int) -> Message:
        """The message of its next unary call."""
        if self.kind is Kind.UNNUMBERED:
            return Message(0, (f"{self.name}.call{self.attempts}",))
        if not self.unanswered:
            self.add(span)
        sent = self.unanswered[0]
        sent.on_stream = True
        return sent.message

    def next(self) -> Sent | None:
        """What goes out next on the current stream; None while going back."""
        if self.going_back and any(sent.on_stream for sent in self.log):
            return None
        self.going_back = False
        unsent = (sent for sent in self.log if sent.message.last > self.resend_from and not sent.on_stream)
        return next(unsent, None)

    # what it is told

    def take(self, response: Response) -> None:
        """One response of the current stream or call."""
        match response:
            case Opened():
                self._take_opened(response)
            case Reply():
                self._take_reply(response)
            case Refused():
                self._take_refused(response)
            case Closed():
                self.leave()
                self.closed = True
            case Failed():
                self._take_failed(response)

    def _take_opened(self, told: Opened) -> None:
        self.opened = True
        if not self.knows:
            self.received = self.durable = told.step
            self.told[told.step] = told.h
        elif self.accept == (told.step, told.h):
            self._go_back_to(told.step)
        elif self.skip_lost and told.step > self.received:
            self.received = self.durable = told.step
            self.told, self.log = {told.step: told.h}, []
        self.accept, self.skip_lost = None, False
        if not self._is_mine(told):
            self.fail("LINEAGE_MISMATCH")
            return
        self.ahead = (told.step, told.h) if told.step > self.received else None
        self.durable = max(self.durable, min(told.step, self.received))
        self.found, self.store_id, self.incarnation = told.epoch, told.store_id, told.incarnation
        if told.incarnation != self.token:
            self.token = ""
        self.resend_from = min(told.step, self.received)

    def _is_mine(self, told: Opened) -> bool:
        """Whether the session stands where this client's messages led, or may have led."""
        if told.step > self.received:
            return self._may_have_reached(told.step)
        if told.step < self.received:
            same = self.told.get(told.step) == told.h or not self.rules.undurable_compared
            return same and told.step >= self.durable
        return self.told[told.step] == told.h or not self.rules.lineage_checked

    def _go_back_to(self, step: int) -> None:
        """The store fell back, and the client goes on from there knowingly."""
        self.received = self.durable = step
        self.told = {at: chain for at, chain in self.told.items() if at <= step}
        self.delivered = {chain: output for chain, output in self.delivered.items() if len(chain) <= step + 1}
        for sent in self.unanswered:
            sent.in_doubt = self.rules.replayed_in_doubt

    def _may_have_reached(self, step: int) -> bool:
        if not self.rules.position_checked:
            return True
        return any(sent.in_doubt and sent.message.last == step for sent in self.log)

    def _take_reply(self, reply: Reply) -> None:
        sent = next((each for each in self.log if each.message.last == reply.step), None)
        if sent:
            sent.on_stream = sent.in_doubt = False
        if reply.step <= self.received:
            if self.told.get(reply.step) != reply.h:
                self.fail("LINEAGE_MISMATCH")
                return
        else:
            if self.ahead and reply.step >= self.ahead[0]:
                if self.ahead != (reply.step, reply.h):
                    self.fail("LINEAGE_MISMATCH")
                    return
                self.ahead = None
            self.received = reply.step
            self.told[reply.step] = reply.h
        self.durable = max(self.durable, reply.durable)
        self.resend_from = max(self.resend_from, reply.step)
        if self.kind is not Kind.STREAM:
            self.found, self.store_id, self.incarnation = reply.epoch, reply.store_id, reply.incarnation
            self.restarting = False
            self.leave()

    def _take_refused(self, refused: Refused) -> None:
        sent = next((each for each in self.log if each.message.first == refused.first and each.on_stream), None)
        if refused.reason in ENDS:
            self.fail(refused.reason)
        elif self.kind is Kind.FACADE and refused.reason == "STEP_GAP":
            self.fail("STEP_GAP")
        elif self.kind is not Kind.STREAM:
            self.leave()
        elif sent:
            sent.on_stream = False
            self.going_back = True
            for later in self.log:
                if later.message.first >= refused.first:
                    later.in_doubt = False

    def _take_failed(self, failed: Failed) -> None:
        closing = self.closing or self.tried_close
        at_open = not self.opened
        self.leave()
        if failed.reason == "SESSION_CLOSED" and closing:
            self.closed = True
        elif failed.reason == "STALE_OPEN":
            self.found = failed.epoch
        elif failed.reason in ("STATE_REGRESSED", "STORE_LOST") and not at_open and self.rules.losses_asked_again:
            return
        elif failed.reason == "STATE_REGRESSED":
            held = self.told.get(failed.step)
            if not at_open or held is None:
                self.failure = "STATE_REGRESSED"
            elif held != failed.h:
                self.failure = "LINEAGE_MISMATCH"
            elif self.kind is Kind.STREAM:
                self.accept = (failed.step, failed.h)
            else:
                self._go_back_to(failed.step)
        elif failed.reason == "STEP_TOO_OLD" and self.skips:
            self.skip_lost = True
        elif failed.reason in ENDS:
            self.failure = failed.reason

    def fail(self, reason: str) -> None:
        """It surfaces: the application is told, and the client does not go on by itself."""
        self.leave()
        self.failure = reason

    def leave(self) -> None:
        """It has no stream or call any more; what that did not answer is in doubt."""
        if self.session:
            self.session.abandoned = True
        self.tried_close = self.tried_close or self.closing
        self.session, self.opened, self.closing, self.going_back, self.ahead = None, False, False, False, None
        reached = True
        for sent in self.unanswered:
            reached = reached and (sent.in_doubt or sent.on_stream)
            sent.in_doubt = reached
        for sent in self.log:
            sent.on_stream = False
