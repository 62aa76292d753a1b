"""The promise, rule by rule, over a recorded history: each rule yields what breaks it. Linear in the history.

It knows neither the service nor how the history came about. Where an outcome is unknown ("may have happened") a rule
allows both; where the nemesis made the store forget acknowledged writes, a rule asks that it was said.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.faults.history import Event
from tests.faults.ledger import Answer, Ledger, Stream

TOLERANCE = 1e-5
"""Of floating point; runs in batches of other sizes differ in the last bits."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What the history shows and the promise forbids."""

    at: int
    """Place of the event that shows it."""
    where: str
    text: str


class DoubleAdvance(Violation):
    """A timestep advanced the state twice."""


class LostAdvance(Violation):
    """A timestep was answered and the state after it does not have it."""


class SilentLoss(Violation):
    """The store lost what was told to be durable, and a caller that could have been told was not."""


class WrongState(Violation):
    """An output is not that of the session's inputs, for no reason that shows."""


class Fenced(Violation):
    """An owner that had been displaced wrote, or an epoch was granted twice."""


class Mixed(Violation):
    """A session got what belongs to another one."""


class OtherReplay(Violation):
    """A replayed reply differs from the first."""


class Leak(Violation):
    """Something was left behind."""


class Stuck(Violation):
    """A client did not get on although every fault had healed."""


class Resurrection(Violation):
    """A session that was closed, or told to be lost, went on."""


class BadDrain(Violation):
    """A replica that was asked to go did not go in order."""


class Surprise(Violation):
    """An answer that no fault explains."""


Rule = Callable[[Ledger], Iterator[Violation]]


def truth(ledger: Ledger) -> Iterator[Violation]:
    """I1, I3, I5: each output is that of exactly the inputs delivered, in their order, and of nothing else."""
    owners: dict[float, str] = {}
    wrong: list[Answer] = []
    for life in ledger.lives.values():
        for answer in life.answers:
            expected = life.reference.outputs(answer.branch, answer.first, answer.count)
            owners[expected[-1]] = life.name
            if not _equal(answer.event["outputs"], expected, life.is_exact):
                wrong.append(answer)
    for answer in wrong:
        yield _explained(answer, owners)


def once(ledger: Ledger) -> Iterator[Violation]:
    """I1: committed ranges are contiguous and disjoint; no message is executed again after it was durable."""
    for at in ledger.strays:
        yield Surprise(at, "a stream", f"a reply to step {ledger.events[at]['step']} that was never sent there")
    for life in ledger.lives.values():
        executed: dict[tuple[int, int], Answer] = {}
        for answer in life.answers:
            if answer.event["replayed"]:
                continue
            key = (answer.branch, answer.step)
            before = executed.setdefault(key, answer)
            if before is answer or before.event["durable"] < answer.step:
                continue
            # whichever was executed first, its reply may have come last
            if not ledger.store_may_have_lost(min(before.asked_at, answer.asked_at), answer.at):
                yield DoubleAdvance(answer.at, life.name, f"step {answer.step} was executed again")
        for stream in life.streams:
            yield from _contiguous(stream)


def no_silent_loss(ledger: Ledger) -> Iterator[Violation]:
    """I2: after durable_step >= n was told, every open that presents it finds n' >= n, or says the loss."""
    for life in ledger.lives.values():
        told: dict[str, int] = {}
        for stream in life.streams:
            presented = max(stream.event["durable"], told.get(stream.holder, 0))
            accepted = stream.event["accept"]
            if accepted is not None and stream.via == "call" and stream.answers:
                presented = accepted
            if stream.opened:
                found = stream.opened["step"]
                if accepted == found:
                    presented = found
                if found < presented:
                    text = f"durable up to {presented}, opened at {found} without a word"
                    yield SilentLoss(stream.opened_at, life.name, text)
            for answer in stream.answers:
                durable = answer.event["durable"]
                if durable < presented:
                    text = f"durable_step fell from {presented} to {durable} without a word"
                    yield SilentLoss(answer.at, life.name, text)
                presented = max(presented, durable)
            if stream.opened or stream.answers:
                told[stream.holder] = presented


def one_lineage(ledger: Ledger) -> Iterator[Violation]:
    """I2: one step of one lineage has one digest, wherever it is told, and one digest has one step."""
    for life in ledger.lives.values():
        digests: dict[tuple[int, int], str] = {}
        for answer in life.answers:
            known = digests.setdefault((answer.branch, answer.step), answer.event["h"])
            if known != answer.event["h"]:
                yield SilentLoss(answer.at, life.name, f"step {answer.step} has another digest than before")


def fenced(ledger: Ledger) -> Iterator[Violation]:
    """I4: once an epoch was granted at step n, no older owner makes anything beyond n durable."""
    for life in ledger.lives.values():
        claims = [stream for stream in life.streams if stream.opened and stream.via == "stream"]
        claims.sort(key=lambda stream: int(stream.opened["epoch"]) if stream.opened else 0)
        for older, newer in pairwise(claims):
            assert older.opened
            assert newer.opened
            if older.opened["epoch"] == newer.opened["epoch"]:
                yield Fenced(newer.opened_at, life.name, f"epoch {newer.opened['epoch']} was granted twice")
            for answer in older.answers:
                if answer.event["durable"] <= newer.opened["step"]:
                    continue
                # what it says is durable may have been so since that step was asked for, or the stream was opened
                durable = answer.event["durable"]
                became = older.at if durable <= older.opened["step"] else older.asked.get(durable, (older.at,))[0]
                since, until = min(became, newer.at), max(answer.at, newer.opened_at)
                if not ledger.store_may_have_lost(since, until):
                    text = f"the owner of an older epoch committed step {answer.step} after the claim at "
                    yield Fenced(answer.at, life.name, text + str(newer.opened["step"]))


def replays_are_equal(ledger: Ledger) -> Iterator[Violation]:
    """I7: a replayed reply has the outputs of the first one byte for byte, and its digest.

    Where a message may have been executed again (its first execution was lost, or never durable), floating point
    may differ in the last bits, and the replay is that of one of the executions.
    """
    for life in ledger.lives.values():
        known: dict[tuple[int, int], tuple[set[str], int]] = {}
        for answer in life.answers:
            key, digest = (answer.branch, answer.step), answer.event["digest"]
            seen, since = known.setdefault(key, (set(), answer.asked_at))
            again = life.event["behind"] or ledger.store_may_have_lost(since, answer.at)
            if seen and digest not in seen and not (again and not life.is_exact):
                yield OtherReplay(answer.at, life.name, f"step {answer.step} was answered otherwise before")
            seen.add(digest)


def nothing_left(ledger: Ledger) -> Iterator[Violation]:
    """I8: keys, tasks, descriptors are back where they began."""
    began: dict[str, int] = {}
    for at, event in enumerate(ledger.events):
        if event["k"] != "census":
            continue
        if event["place"] == "before":
            began[event["name"]] = event["count"]
        elif event["count"] > began.get(event["name"], 0):
            text = f"{event['count']} after, {began.get(event['name'], 0)} before"
            yield Leak(at, str(event["name"]), text)


def all_got_on(ledger: Ledger) -> Iterator[Violation]:
    """I9: once every fault has healed each client gets to its end."""
    holders = {str(event["holder"]): at for at, event in enumerate(ledger.events) if event["k"] == "open"}
    for at, event in enumerate(ledger.events):
        if event["k"] == "left" and event["why"] != "stuck":
            holders.pop(str(event["holder"]), None)
        elif event["k"] == "left":
            holders[str(event["holder"])] = at
    for holder, at in holders.items():
        yield Stuck(at, holder, "did not get to its end")


def none_rises(ledger: Ledger) -> Iterator[Violation]:
    """I10: what was closed, expired or told to be lost is not opened again."""
    for life in ledger.lives.values():
        closed_at = life.closed_at
        for stream in life.streams:
            if not stream.opened:
                continue
            after_close = closed_at is not None and stream.at > closed_at
            if after_close and not ledger.store_may_have_lost(life.close_sent_at, stream.opened_at):
                yield Resurrection(stream.opened_at, life.name, "was closed and opened again")
            if stream.at > life.lost_at.get(stream.holder, stream.at):
                yield Resurrection(stream.opened_at, life.name, "was told to be lost and opened again")
            if stream.opened["created"] and stream.event["step"] > 0:
                yield Resurrection(stream.opened_at, life.name, "was created although a resume point was presented")


def drained(ledger: Ledger) -> Iterator[Violation]:
    """I11: a replica that was asked to go ends with status 0 (that its replies are durable is I2)."""
    for at, event in enumerate(ledger.events):
        if event["k"] == "exited" and event["asked"] == "TERM" and event["status"] != 0:
            yield BadDrain(at, str(event["target"]), f"exit status {event['status']}")


EXPLAINED = frozenset(
    {
        *("CONNECTION", "WRITE_FAILED_HERE", "TIMEOUT", "LEFT", "CLOSED", "DISCONNECTED"),
        *("DRAINING", "STORE_UNAVAILABLE", "STALE_OPEN", "SESSION_BUSY", "STEP_GAP", "STORE_FULL", "OVERLOADED"),
        *("STATE_REGRESSED", "STORE_LOST", "SESSION_EXPIRED_OR_LOST", "UNAVAILABLE"),
    }
)
"""What a fault of the store, of a replica or of the way may lead to, and what the client brought about itself."""
AMONG_RIVALS = frozenset({"SUPERSEDED", "STEP_TOO_OLD", "SESSION_CLOSED"})
AFTER_A_LOSS = frozenset({"SESSION_UNKNOWN", "SESSION_EXISTS", "SESSION_CLOSED"})
"""The store forgot that a life began, or that the one before it was closed: the earlier life is there again."""


def explained(ledger: Ledger) -> Iterator[Violation]:
    """A client alone with its token is never told of a rival, and nobody is told what no fault explains."""
    for at, event in enumerate(ledger.events):
        if event["k"] not in ("denied", "refused", "ended"):
            continue
        stream = ledger.streams[event["stream"]]
        allowed = EXPLAINED | AMONG_RIVALS if stream.life.event["rivals"] else EXPLAINED
        closes = stream.life.closed_at is not None or any(each.closes for each in stream.life.streams)
        if closes:
            allowed |= {"SESSION_CLOSED"}
        if ledger.store_may_have_lost(0, at):
            allowed |= AFTER_A_LOSS
        if event["reason"] not in allowed:
            yield Surprise(at, stream.life.name, f"{event['k']}: {event['reason']}")


RULES: tuple[Rule, ...] = (
    truth,
    once,
    no_silent_loss,
    one_lineage,
    fenced,
    replays_are_equal,
    nothing_left,
    all_got_on,
    none_rises,
    drained,
    explained,
)


def check(events: Sequence[Event], models: Path) -> list[Violation]:
    """Everything in this history that the promise forbids, in the order of the history."""
    ledger = Ledger(events, models)
    return sorted((found for rule in RULES for found in rule(ledger)), key=lambda violation: violation.at)


def excerpt(events: Sequence[Event], violation: Violation, around: int = 40) -> list[Event]:
    """The last events of the same session up to the one that shows a violation."""
    session = violation.where.partition("/")[0]
    streams = {event["stream"] for event in events if event["k"] == "open" and event["session"] == session}
    of_it = [
        event
        for event in events[: violation.at + 1]
        if event.get("session") == session or event.get("stream") in streams or event["k"] == "fault"
    ]
    return of_it[-around:]


def _equal(outputs: Sequence[float], expected: Sequence[float], exact: bool) -> bool:
    if exact or len(outputs) != len(expected):
        return list(outputs) == list(expected)
    return all(math.isfinite(y) and abs(y - z) <= TOLERANCE for y, z in zip(outputs, expected, strict=True))


def _explained(answer: Answer, owners: dict[float, str]) -> Violation:
    """Why an output may be wrong: the message ran twice, the one before it did not count, or it is another's."""
    life, outputs = answer.stream.life, answer.event["outputs"]
    reference, branch, first, count = life.reference, answer.branch, answer.first, answer.count
    twice = reference.after(reference.state(branch, answer.step), branch, first, count)
    if _equal(outputs, twice, life.is_exact):
        return DoubleAdvance(answer.at, life.name, f"step {answer.step} counts twice")
    for before in range(max(0, first - 32), first - 1):
        if _equal(outputs, reference.after(reference.state(branch, before), branch, first, count), life.is_exact):
            return LostAdvance(answer.at, life.name, f"steps {before + 1} to {first - 1} do not count")
    owner = owners.get(outputs[-1]) if outputs else None
    if owner not in (None, life.name):
        return Mixed(answer.at, life.name, f"step {answer.step} has the outputs of {owner}")
    return WrongState(answer.at, life.name, f"step {answer.step} has other outputs than an undisturbed run")


def _contiguous(stream: Stream) -> Iterator[Violation]:
    """What a stream executes follows where it was opened, without gap or overlap."""
    if not stream.opened or stream.via == "call":
        return
    at = stream.opened["step"]
    for answer in stream.answers:
        if stream.via == "stream" and answer.event["replayed"]:
            continue
        if answer.first != at + 1:
            text = f"steps {answer.first} to {answer.step} were executed at {at}"
            yield DoubleAdvance(answer.at, stream.life.name, text)
        at = answer.step
