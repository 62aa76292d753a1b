"""What a history shows so far, counted as it grows: the figures that a run must reach. It judges nothing."""

from collections import Counter

from tests.faults.history import Event, History

UNGRACEFUL = frozenset({"CONNECTION", "TIMEOUT", "WRITE_FAILED_HERE"})
"""Ends after which the owner still has its lease: it is dead, paused, or does not know yet."""
BARS = {
    "timesteps": 1_000_000,
    "kills": 300,
    "pauses": 300,
    "failovers with a lagging replica": 50,
    "takeovers": 1_000,
    "commits in doubt": 300,
    "replays": 1_000,
    "reported regressions": 30,
}
BOTH = ("commits in doubt: executed", "commits in doubt: not executed")
"""Each must have occurred."""
_FAULTS = {"kill": "kills", "pause": "pauses", "failover": "failovers with a lagging replica", "crash": "store crashes"}


class Tally:
    """Counts the events of one history."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._seen = 0
        self._asked: dict[tuple[int, int], int] = {}
        self._session: dict[int, str] = {}
        self._owner: dict[str, int] = {}
        self._ended: dict[int, str] = {}
        self.counts: Counter[str] = Counter()

    def update(self) -> Counter[str]:
        """The counts, up to what is recorded now."""
        events = self._history.events
        for event in events[self._seen :]:
            self._count(event)
        self._seen = len(events)
        return self.counts

    def reached(self, share: float = 1.0) -> bool:
        """Whether every bar is, or this share of it."""
        counts = self.update()
        return all(counts[name] >= bar * share for name, bar in BARS.items()) and all(counts[name] for name in BOTH)

    def _count(self, event: Event) -> None:
        kind, stream = event["k"], event.get("stream", 0)
        if kind == "send":
            self._asked[stream, event["first"] + event["count"] - 1] = event["count"]
        elif kind == "reply":
            asked = self._asked.get((stream, event["step"]), 0)
            self.counts["replays" if event["replayed"] else "timesteps"] += 1 if event["replayed"] else asked
        elif kind == "open":
            self._session[stream] = event["session"]
            self.counts["streams and calls"] += 1
        elif kind == "opened":
            self._count_owner(stream)
        elif kind == "ended":
            self._ended[stream] = event["reason"]
        elif kind == "fault":
            self.counts[_FAULTS.get(event["what"], "other faults")] += 1
        elif kind == "regressed":
            self.counts["reported regressions"] += 1
        elif kind == "loss":
            self.counts["sessions said to be lost"] += 1
        elif kind == "settled":
            self.counts["commits in doubt"] += event["count"]
            self.counts[f"commits in doubt: {event['outcome']}"] += event["count"]

    def _count_owner(self, stream: int) -> None:
        session = self._session[stream]
        before = self._owner.get(session)
        self._owner[session] = stream
        if before is not None and self._ended.get(before, "TIMEOUT") in UNGRACEFUL:
            self.counts["takeovers"] += 1
