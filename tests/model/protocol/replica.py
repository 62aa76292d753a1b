"""The service: replicas with their Sessions. Each is a small machine moved by answers of the store and by its client.

Follows service/session.py, sessions.py, calls.py and servicer.py. Its surroundings are given to it: a way to send an
item to the store, and the observer.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tests.model.protocol.items import (
    NOBODY,
    Answer,
    Chain,
    Claim,
    Close,
    Commit,
    Heartbeat,
    Item,
    Key,
    Mode,
    Owner,
    Record,
    Release,
)
from tests.model.protocol.rules import Rules
from tests.model.protocol.store import Address

LOOKS = 3
"""How often a unary call looks at its session again before its deadline."""


class Message(NamedTuple):
    """Timesteps first.. of a client."""

    first: int
    inputs: tuple[str, ...]

    @property
    def last(self) -> int:
        return self.first + len(self.inputs) - 1


class CloseAt(NamedTuple):
    """A client's Close."""

    step: int


class Opened(NamedTuple):
    step: int
    h: Chain
    epoch: int
    incarnation: str
    store_id: int


class Reply(NamedTuple):
    step: int
    h: Chain
    output: str
    durable: int
    replayed: bool
    epoch: int
    incarnation: str
    store_id: int
    """The last two travel beside the reply of a unary call."""


class Refused(NamedTuple):
    """In band: nothing has changed."""

    reason: str
    first: int


class Failed(NamedTuple):
    """The end of a stream, or of an open. Step, h and epoch are its Position."""

    reason: str
    step: int = 0
    h: Chain = ()
    epoch: int = 0


class Closed(NamedTuple):
    step: int


Response = Opened | Reply | Refused | Failed | Closed

GONE_CLAIMS = frozenset({"SESSION_CLOSED", "SUPERSEDED", "STORE_LOST", "CLAIM_LOST"})
"""Ends after which there is no lease to give up."""
REFUSALS = {
    "STALE": "STALE_OPEN",
    "BUSY": "SESSION_BUSY",
    "CLOSED": "SESSION_CLOSED",
    "EXISTS": "SESSION_EXISTS",
    "UNKNOWN": "SESSION_UNKNOWN",
    "INCARNATION": "INCARNATION_MISMATCH",
    "LINEAGE": "LINEAGE_MISMATCH",
    "TOO_OLD": "STEP_TOO_OLD",
    "REGRESSED": "STATE_REGRESSED",
}


@dataclass(eq=False)
class Session:
    """One claim in memory, or on its way to one; with the stream or the call that it serves."""

    name: str
    client: str
    replica: "Replica"
    claim: Claim
    unary: bool
    write_behind: bool
    state: str = "claiming"
    """claiming, waiting (a unary call that looks again), granted (not yet held), live, ended."""
    owner: Owner = NOBODY
    displaced: int = 0
    """The epoch that its claim displaced."""
    step: int = 0
    h: Chain = ()
    ring: list[Record] = field(default_factory=list)
    undurable: list[Record] = field(default_factory=list)
    durable: int = 0
    pending: Record | None = None
    rest: Message | None = None
    """Of a message that a broken rule commits in parts."""
    call: "Call | None" = None
    up: deque[Message | CloseAt] = field(default_factory=deque)
    down: deque[Response] = field(default_factory=deque)
    abandoned: bool = False
    """Its client is gone; the server may not know yet."""
    told: bool = False
    """Opened has left."""
    leaving: bool = False
    looks: int = 0
    committed: bool = False
    from_kept: bool = False
    """A unary call in a kept Session: whatever fails it is looked at again behind a claim."""


@dataclass(eq=False)
class Call:
    """One item to the store. Each copy of it is executed once, at any time; one answer reaches its Session, or none."""

    name: str
    item: Item
    session: Session | None
    made: int
    """When, by the observer's clock."""
    copies: list[Address]
    """On their way, each to a shard."""
    sends: int = 1
    parked: list[tuple[Answer, int, int, int]] = field(default_factory=list)
    """Answers that wait for replicas: the shard, the offset that WAIT waits for, the one that the answer relies on."""
    heard: bool = False
    """Of a heartbeat: answered."""
    grants: int = 0


@dataclass
class Surroundings:
    """What a replica needs of the world."""

    rules: Rules
    send: Callable[[Session, Item], Call]
    store_id: Callable[[], int]
    check_reply: Callable[[Session, Reply], None]


class Replica:
    """One process of the service."""

    def __init__(self, name: str, around: Surroundings) -> None:
        self.name = name
        self.route = 0
        """The shard that it believes to have the key's slot."""
        self.held: Session | None = None
        self.kept: Session | None = None
        self._around = around
        self._rules = around.rules

    # answers of the store

    def answer(self, session: Session, item: Item, answer: Answer) -> None:
        """The answer to the Session's call, or to a heartbeat."""
        in_doubt = session.call is not None and session.call.sends > 1
        if not isinstance(item, Heartbeat):
            session.call = None
        match item:
            case Claim():
                self._claimed(session, item, answer)
            case Commit():
                self._committed(session, item, answer, in_doubt)
            case Close():
                self._closed(session, answer)
            case Heartbeat():
                if answer.word != "OK":
                    self.end(session, self._why(session, answer))

    def _claimed(self, session: Session, item: Claim, answer: Answer) -> None:
        if answer.word == "OK":
            assert answer.key is not None
            self._adopt_claim(session, item, answer.key)
            if session.unary:
                session.state = "live"
                self.serve(session)
        elif (
            answer.word == "STALE"
            and session.unary
            and (item.mode is not Mode.RESTART or not self._rules.restart_asked_once)
        ):
            session.claim = replace(session.claim, found=answer.epoch)
            self._look_again(session, Failed("STALE_OPEN", epoch=answer.epoch))
        elif answer.word == "BUSY" and session.unary:
            self._look_again(session, Failed("SESSION_BUSY", epoch=answer.epoch))
        else:
            self._refuse_open(session, item, answer)

    def _adopt_claim(self, session: Session, item: Claim, key: Key) -> None:
        session.state = "granted"
        session.owner, session.displaced = Owner(key.incarnation, item.nonce, key.epoch), key.displaced
        session.step, session.h, session.ring, session.durable = key.step, key.h, list(key.ring), key.step
        session.undurable = []

    def _refuse_open(self, session: Session, item: Claim, answer: Answer) -> None:
        if answer.word == "MISSING":
            told = item.point.store_id if item.point else self._around.store_id()
            reason = "SESSION_EXPIRED_OR_LOST" if told == self._around.store_id() else "STORE_LOST"
        else:
            reason = REFUSALS[answer.word]
        session.state = "ended"
        session.down.append(Failed(reason, answer.step, answer.h, answer.epoch))

    def _may_run_again(self, session: Session, in_doubt: bool) -> bool:
        """Whether a call whose commit failed may be run behind another claim: a number tells whether it was done."""
        message = session.up[0]
        numbered = isinstance(message, Message) and message.first > 0
        return numbered or not in_doubt or not self._rules.unnumbered_once

    def _look_again(self, session: Session, error: Failed) -> None:
        session.looks += 1
        session.from_kept = False
        if session.looks > LOOKS:
            session.state = "ended"
            session.down.append(error)
        else:
            session.state = "waiting"

    def claim_again(self, session: Session) -> None:
        """A unary call's next look, with a nonce of its own."""
        session.state = "claiming"
        nonce = f"{session.name}'{session.looks}"
        session.claim = replace(session.claim, nonce=nonce)
        session.call = self._around.send(session, session.claim)

    def _why(self, session: Session, answer: Answer) -> Failed:
        """What an answer to a write of the Session means."""
        match answer.word:
            case "FENCED":
                displaced = answer.displaced >= session.owner.epoch or not self._rules.displaced_told
                return Failed("SUPERSEDED" if displaced else "CLAIM_LOST")
            case "MISMATCH":
                return Failed("STATE_REGRESSED", answer.step)
            case "CLOSED":
                return Failed("SESSION_CLOSED", answer.step)
        return Failed("STORE_LOST")

    def _committed(self, session: Session, item: Commit, answer: Answer, in_doubt: bool) -> None:
        if answer.word not in ("OK", "DUPLICATE"):
            error = self._why(session, answer)
            fenced = error.reason in ("SUPERSEDED", "CLAIM_LOST")
            if not session.unary or not (session.from_kept or fenced):
                self.end(session, error)
            elif self._may_run_again(session, in_doubt):
                self._look_again(session, error)
            else:
                self.end(session, Failed("STORE_UNAVAILABLE"))
            return
        session.durable = item.records[-1].last
        if session.write_behind:
            session.undurable = [record for record in session.undurable if record.last > session.durable]
            if session.leaving:
                self.leave(session)
            return
        record, session.pending = item.records[-1], None
        session.committed = True
        if self._rules.reply_after_commit:
            self._adopt(session, record)
            if session.rest:
                message, session.rest = session.rest, None
                self._run(session, message)
                return
            self._reply(session, record, replayed=False)
        if session.unary:
            self._finish(session)

    def _closed(self, session: Session, answer: Answer) -> None:
        if answer.word in ("OK", "DUPLICATE", "CLOSED"):
            session.state = "ended"
            session.down.append(Closed(answer.step))
        else:
            self.end(session, self._why(session, answer))

    # streams

    def hold(self, session: Session) -> None:
        """A stream has the session from now on."""
        older, self.held = self.held, session
        session.state = "live"
        if older and older.state == "live" and older is not session:
            newer = session
            if self._rules.hold_by_epoch and older.owner.epoch > session.owner.epoch:
                older, newer, self.held = session, older, older
            displaced = newer.displaced >= older.owner.epoch or not self._rules.hold_by_displaced
            self.end(older, Failed("SUPERSEDED" if displaced else "CLAIM_LOST"))
        if session.state == "live":
            session.told = True
            opened = Opened(
                session.step, session.h, session.owner.epoch, session.owner.incarnation, self._around.store_id()
            )
            session.down.append(opened)

    def serve(self, session: Session) -> None:
        """The client's next message."""
        match session.up[0]:
            case Message() as message:
                if session.write_behind and len(session.undurable) >= self._rules.undurable:
                    return
                if not session.unary:  # a call keeps its message: it may look again
                    session.up.popleft()
                self.step(session, message)
            case CloseAt(step):
                if session.undurable:
                    if session.call is None:
                        self.flush(session)
                    return
                session.up.popleft()
                if step == session.step:
                    session.call = self._around.send(session, Close(session.owner, step))
                else:
                    session.down.append(Refused("LAST_STEP_MISMATCH", step))

    def step(self, session: Session, message: Message) -> None:
        """The table of answers: the next message is run, one that was committed is answered, others are refused."""
        if message.first == 0:
            message = message._replace(first=session.step + 1)
        partly = message.first <= session.step < message.last and not self._rules.spans_whole
        if message.first == session.step + 1 or partly:
            self._run(session, message)
            return
        session.down.append(self._replayed(session, message))
        if session.unary:
            self._finish(session)

    def _run(self, session: Session, message: Message) -> None:
        if not self._rules.spans_whole and len(message.inputs) > 1:
            session.rest = Message(message.first + 1, message.inputs[1:])
            message = Message(message.first, message.inputs[:1])
        first = session.step + 1
        after = session.h + message.inputs
        record = Record(first, session.step + len(message.inputs), session.h, after, session.owner.nonce)
        if session.write_behind:
            self._adopt(session, record)
            session.undurable.append(record)
            self._reply(session, record, replayed=False)
            return
        commit = Commit(session.owner, session.step, session.h, (record,), holds=not session.unary)
        session.pending = record
        if not self._rules.reply_after_commit:
            self._adopt(session, record)
            self._reply(session, record, replayed=False)
        session.call = self._around.send(session, commit)

    def _replayed(self, session: Session, message: Message) -> Response:
        if message.first > session.step + 1:
            return Refused("STEP_GAP", message.first)
        for record in session.ring:
            if (record.first, record.last) == (message.first, message.last):
                if record.after != record.before + message.inputs and self._rules.replay_compares:
                    return Refused("STEP_CONFLICT", message.first)
                reply = self._as_reply(session, record, replayed=True)
                self._around.check_reply(session, reply)
                return reply
        overlaps = any(record.first <= message.last and message.first <= record.last for record in session.ring)
        if message.last <= session.step and not overlaps:
            return Refused("STEP_TOO_OLD", message.first)
        return Refused("STEP_CONFLICT", message.first)

    def _adopt(self, session: Session, record: Record) -> None:
        session.step, session.h = record.last, record.after
        session.ring = [*session.ring, record][-self._rules.ring :]

    def _as_reply(self, session: Session, record: Record, replayed: bool) -> Reply:
        durable = session.durable if session.write_behind else session.step
        owner, store_id = session.owner, self._around.store_id()
        return Reply(
            record.last, record.after, record.output, durable, replayed, owner.epoch, owner.incarnation, store_id
        )

    def _reply(self, session: Session, record: Record, replayed: bool) -> None:
        reply = self._as_reply(session, record, replayed)
        self._around.check_reply(session, reply)
        session.down.append(reply)

    def flush(self, session: Session) -> None:
        """Write-behind: everything that is not durable, in one commit."""
        records = tuple(session.undurable)
        commit = Commit(session.owner, session.durable, records[0].before, records, holds=True)
        session.call = self._around.send(session, commit)
        if not self._rules.watermark_after_commit:
            session.durable = records[-1].last

    def leave(self, session: Session) -> None:
        """The stream is over: what is not durable is written, then the lease given up."""
        if session.undurable and session.state == "live":
            session.leaving = True
            self.flush(session)
        else:
            self.end(session, None)

    def end(self, session: Session, error: Failed | None) -> None:
        """Nothing advances this Session any more."""
        if session.state == "ended":
            return
        claimed = session.state in ("granted", "live")
        session.state, session.call, session.pending = "ended", None, None
        if error:
            session.down.append(error)
        if claimed and not (error and error.reason in GONE_CLAIMS):
            self._around.send(session, Release(session.owner))

    def give_up(self, session: Session) -> None:
        """The deadline of the Session's call: its outcome is not known."""
        assert session.call is not None
        commit = isinstance(session.call.item, Commit)
        if commit and not self._rules.doubt_ends_session and not session.unary:
            session.call, session.rest = None, None
            first = session.pending.first if session.pending else 0
            session.pending = None
            if first:
                session.down.append(Refused("STORE_FULL", first))
        elif session.from_kept and self._may_run_again(session, commit):
            session.call = None
            self._look_again(session, Failed("STORE_UNAVAILABLE"))
        else:
            self.end(session, Failed("STORE_UNAVAILABLE"))

    def refuse_load(self, session: Session) -> None:
        """Overload, a full store, a deadline: the next message is refused before anything has changed."""
        message = session.up.popleft()
        assert isinstance(message, Message)
        session.down.append(Refused("STORE_FULL", message.first))

    # unary calls

    def take(self, claim: Claim, message: Message) -> Session | None:
        """The Session kept from the last call, if its next commit alone can answer this one."""
        session, self.kept = self.kept, None
        if session is None or session.owner.incarnation != claim.token or claim.mode is Mode.RESTART:
            return None
        point = claim.point
        if point and (point.step, point.h) != (session.step, session.h) and self._rules.kept_next_only:
            return None
        if message.first not in (0, session.step + 1) and self._rules.kept_next_only:
            return None
        return session

    def _finish(self, session: Session) -> None:
        if session.state == "ended":
            return
        session.state = "ended"
        if session.committed:
            self.kept = session
        elif self._rules.unary_releases:
            self._around.send(session, Release(session.owner))

    # the process

    def crash(self) -> None:
        """Its memory is gone."""
        self.held = self.kept = None
