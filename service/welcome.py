"""When who was refused for load may come again. Knows times and priorities only."""

import time

from service.errors import Overloaded

IN_TIME = 0.9
"""Of the time after which a message may come again: clocks and roundings differ."""


class Welcome:
    """Of one session on its stream: what comes before its time is kept waiting, and refused once more.

    Who does not listen is slowed down to what its refusals may cost; and what piled up behind is late anyway.
    """

    __slots__ = ("_at", "_priority")

    def __init__(self) -> None:
        self._at = 0.0
        self._priority = 0

    def sent_away(self, priority: int, seconds: float) -> None:
        """A message of this priority was refused for load, and told to come again after so long."""
        self._at = time.monotonic() + IN_TIME * seconds
        self._priority = priority

    def is_early(self, priority: int, received: float) -> bool:
        """Whether a message comes before the time that was told, and matters no more than what was refused."""
        return received < self._at and priority <= self._priority

    def wait(self, received: float, patience: float) -> float:
        """Seconds that who came too early is kept waiting; none waits beyond its own timeout."""
        return min(self._at - received, max(0.0, patience))

    def too_early(self) -> Overloaded:
        """Why it was not executed: it may come again in the time that is left, if any."""
        left = max(0.0, self._at - time.monotonic())
        return Overloaded("this message came before the time that was told", retry_after=left)
