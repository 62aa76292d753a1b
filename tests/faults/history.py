"""What happened in a run, in the order in which it was seen: JSON lines that only grow. Knows no service and no rule.

Each event has its kind `k` and the monotonic time `t`. Kinds, with their fields:

session   session life model seed rivals behind   a life of a session id begins (a new create token)
branch    session life branch parent at      from step `at` on the client gives other inputs than before
open      stream holder session life via     via: stream, call or library; what the client presents:
          epoch step durable accept skip
opened    stream step h epoch created
denied    stream reason step
send      stream first count branch          may have been executed from here on
reply     stream step h epoch durable replayed outputs digest
refused   stream step reason
ended     stream reason
close     stream step                        may have been executed from here on
closed    stream step
regressed holder step reason                 the client was told that the store fell back to this step
loss      holder session life step reason    the client was told that the session is lost
left      holder why                         done, over (closed), lost, or stuck
fault     what target loses ...              of the nemesis; `loses`: the store may have forgotten acknowledged writes,
                                             at that moment, or from an event with `began` to that with the same `ends`
exited    target asked status
settled   outcome count                      commits in doubt, asked again: executed or not
census    name place count
"""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Event = dict[str, Any]


class History:
    """The events of a run, in memory and (with a path) on disk."""

    def __init__(self, path: Path | None = None) -> None:
        self.events: list[Event] = []
        self._file = path.open("w") if path else None
        self._streams = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def add(self, kind: str, **fields: object) -> None:
        """Something happened now."""
        event: Event = {"k": kind, "t": round(time.monotonic(), 6), **fields}
        self.events.append(event)
        if self._file:
            self._file.write(json.dumps(event, separators=(",", ":")) + "\n")

    def new_stream(self) -> int:
        """A number for a stream or a call, unlike all others of this history."""
        self._streams += 1
        return self._streams

    def of(self, *kinds: str) -> Iterator[Event]:
        """The events of these kinds."""
        return (event for event in self.events if event["k"] in kinds)


def read(lines: Iterable[str]) -> list[Event]:
    """The events of a recorded history."""
    return [json.loads(line) for line in lines]
