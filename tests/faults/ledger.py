"""A recorded history put in order: lives of sessions, their streams, and each answer with what had been asked.

It judges nothing but the record itself; the rules are in `checker`.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.history import Event
from tests.faults.reference import Reference

LifeKey = tuple[str, int]


@dataclass(eq=False, slots=True)
class Answer:
    """A reply, and the message that it answers."""

    at: int
    """Place in the history."""
    event: Event
    stream: "Stream"
    asked_at: int
    """Place of the first sending of this message on this stream."""
    first: int
    count: int
    branch: int

    @property
    def step(self) -> int:
        return self.first + self.count - 1


@dataclass(eq=False, slots=True)
class Stream:
    """One stream or call, from its open to its end."""

    at: int
    event: Event
    life: "Life"
    opened: Event | None = None
    opened_at: int = 0
    asked: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    """Last step -> (place, first, count, branch)."""
    answers: list[Answer] = field(default_factory=list)
    closes: list[tuple[int, Event]] = field(default_factory=list)

    @property
    def holder(self) -> str:
        return str(self.event["holder"])

    @property
    def via(self) -> str:
        return str(self.event["via"])


@dataclass(eq=False, slots=True)
class Life:
    """One life of a session id."""

    event: Event
    reference: Reference
    streams: list[Stream] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    closed_at: int | None = None
    close_sent_at: int = 0
    lost_at: dict[str, int] = field(default_factory=dict)
    """Holder -> place at which it was told that the session is lost."""

    @property
    def name(self) -> str:
        return f"{self.event['session']}/{self.event['life']}"

    @property
    def is_exact(self) -> bool:
        return bool(self.event["model"] == "checker")


class Ledger:
    """All lives of a history."""

    def __init__(self, events: Sequence[Event], models: Path) -> None:
        self.events = events
        self.lives: dict[LifeKey, Life] = {}
        self.streams: dict[int, Stream] = {}
        self.strays: list[int] = []
        """Replies that nobody asked for."""
        self._loss_begins: list[int] = []
        self._latest_end: list[int] = []
        """Of the losses up to each of these, which may overlap: where the last of them ends."""
        self._put_losses(events)
        for at, event in enumerate(events):
            self._put(at, event, models)

    def store_may_have_lost(self, since: int, until: int) -> bool:
        """Whether between these places the nemesis did what makes a store forget acknowledged writes."""
        begun = bisect_right(self._loss_begins, until)
        return begun > 0 and self._latest_end[begun - 1] >= since

    def _put_losses(self, events: Sequence[Event]) -> None:
        """A fault is one moment, or lasts until the event that ends it; or to the end of the history."""
        ends = {event["ends"]: at for at, event in enumerate(events) if "ends" in event}
        for at, event in enumerate(events):
            if event.get("loses"):
                end = ends.get(event["began"], len(events)) if "began" in event else at
                self._loss_begins.append(at)
                self._latest_end.append(max([end, *self._latest_end[-1:]]))

    def _put(self, at: int, event: Event, models: Path) -> None:
        kind = event["k"]
        if kind == "session":
            reference = Reference(models, event["model"], event["seed"])
            self.lives[event["session"], event["life"]] = Life(event, reference)
        elif kind == "branch":
            life = self.lives[event["session"], event["life"]]
            life.reference.fork(event["branch"], event["parent"], event["at"])
        elif kind == "open":
            life = self.lives[event["session"], event["life"]]
            self.streams[event["stream"]] = stream = Stream(at, event, life)
            life.streams.append(stream)
        elif kind == "loss":
            self.lives[event["session"], event["life"]].lost_at[event["holder"]] = at
        elif kind in ("opened", "send", "reply", "close", "closed"):
            self._put_on(self.streams[event["stream"]], at, event)

    def _put_on(self, stream: Stream, at: int, event: Event) -> None:
        kind = event["k"]
        if kind == "opened":
            stream.opened, stream.opened_at = event, at
        elif kind == "send":
            last = event["first"] + event["count"] - 1
            stream.asked.setdefault(last, (at, event["first"], event["count"], event["branch"]))
        elif kind == "reply":
            asked = stream.asked.get(event["step"])
            if asked is None:
                self.strays.append(at)
                return
            answer = Answer(at, event, stream, *asked)
            stream.answers.append(answer)
            stream.life.answers.append(answer)
        elif kind == "close":
            stream.closes.append((at, event))
        elif kind == "closed" and stream.life.closed_at is None:
            stream.life.closed_at, stream.life.close_sent_at = at, stream.closes[-1][0]
