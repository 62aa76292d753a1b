"""Admission: how many timesteps may be in flight, how many a second, how many of what at once.

Knows counts and times; knows neither sessions nor what a timestep is.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from service.errors import Overloaded, Quota

TARGET_RUNS = 4
"""The least target in runs of a full batch: a model that takes long is given the time for a short queue."""
FLOOR_BATCHES = 16
"""The limit never falls below so many batches, as long as the cell alone can run them in a part of the target."""
FLOOR_SHARE = 1 / 8
DECREASE = 0.5
"""The most that the limit falls at once."""
PRIORITIES = 5
"""Priorities beyond this, up or down, count as this."""
PRIORITY_SHARE = 0.05
"""Of the limit, more or less for each priority above or below 0."""
OPEN_SHARE = 0.7
"""Of the limit: with so much in flight a new session is refused, before a timestep of any priority is."""
REFUSED_SHARE = 0.08
"""Of what is done: so much may be refused, lest the replica is idle while those whom it refused stay away. A refusal
costs nearly as much as a timestep of a small cell."""
LONGEST_DELAY = 5.0
"""Seconds until who was refused should come again, at most."""


class Rate:
    """So many timesteps a second: a bucket that holds one second's worth, and one at least. 0: no limit."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second = per_second
        self._clock = clock
        self._most = self._tokens = max(1.0, per_second)
        self._filled = clock()

    def take(self, count: int) -> None:
        """Takes so many tokens; a message of more than there are may overdraw the bucket.

        Raises:
            Quota: there is none; told with the time until there is one.
        """
        if not self.per_second:
            return
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._filled) * self.per_second)
        self._filled = now
        if self._tokens < 1:
            raise Quota(
                f"at most {self.per_second:g} timesteps a second",
                retry_after=(1 - self._tokens) / self.per_second,
                quota="max_steps_per_second",
            )
        self._tokens -= count


class Cap:
    """At most so many at once. 0: no limit."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self.count = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counts one in, and out again.

        Raises:
            Quota: there are as many as may be.
        """
        if self._most and self.count >= self._most:
            raise Quota(f"{self._name}: at most {self._most}", quota=self._name)
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class Admission:
    """A limit on the messages of one model in flight, driven by how long they take from acceptance to commit.

    Additive increase, multiplicative decrease, once a window of two targets: when a timestep took longer than the
    target in the mean, the limit falls in proportion; when it did not although the limit was reached, it grows by a
    batch.
    Who is refused is told to stay away for a time that keeps refusals at their share: it moves, once it has passed, by
    the root of what refusals are too many or too few, because they fall as the time grows.
    It begins at what the cell alone can run within the target. What waits beyond it would be answered too late to be
    of use, and would make everything behind it late.
    """

    def __init__(
        self,
        target: float,
        max_batch: int,
        batch_seconds: float,
        rate: Rate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`target` and `batch_seconds`, the time of one run of a full batch, are seconds."""
        self._target = max(target, TARGET_RUNS * batch_seconds)
        self._max_batch = max_batch
        self.rate = rate
        self._clock = clock
        self.step = partial(InFlight, self)
        """A place for one message (priority=0, timesteps=1), to be entered before the state moves and left when that is
        over. Entering raises Overloaded or Quota; then nothing was counted."""
        within = max_batch * self._target / batch_seconds
        self._floor = max(1.0, min(float(FLOOR_BATCHES * max_batch), within * FLOOR_SHARE))
        self.limit = max(self._floor, within)
        self.in_flight = 0
        self._window = 2 * self._target
        self._window_end = clock() + self._window
        self._done = 0
        self._seconds = 0.0
        self._refused = 0
        self._reached = False
        """The limit was, in this window."""
        self._delay = self._target
        """Seconds after which who is refused should come again."""
        self._delay_end = clock() + self._window
        self._delay_done = 0

    def open(self) -> None:
        """Lets a new session in.

        Raises:
            Overloaded: too much is in flight to begin more.
        """
        self._look(self._clock())
        if self.in_flight >= max(1.0, OPEN_SHARE * self.limit):
            raise self._overloaded()

    def check(self, priority: int = 0) -> float:
        """Counts nothing, so that what would not be admitted need not be looked at closer: when it looked.

        Raises:
            Overloaded: a message of this priority would not be admitted now.
        """
        now = self._clock()
        if now >= self._window_end:
            self._look(now)
        limit = self.limit
        if priority:
            limit *= 1 + PRIORITY_SHARE * max(-PRIORITIES, min(PRIORITIES, priority))
        if self.in_flight >= limit and self.in_flight >= 1:
            raise self._overloaded()
        return now

    def leave(self, entered: float, timesteps: int, done: bool) -> None:
        """Counts a message out. For InFlight."""
        self.in_flight -= 1
        if done:
            now = self._clock()
            if now >= self._window_end:
                self._look(now)
            self._done += 1
            self._delay_done += 1
            self._seconds += (now - entered) / timesteps

    def _overloaded(self) -> Overloaded:
        self._refused += 1
        self._reached = True
        delay = min(LONGEST_DELAY, self._delay * random.uniform(0.5, 1.5))  # noqa: S311 not a secret
        return Overloaded("more is in flight than can be done in time", retry_after=delay)

    def _look(self, now: float) -> None:
        """Moves the limit at the end of a window."""
        if now < self._window_end:
            return
        mean = self._seconds / max(1, self._done)
        if mean > self._target:
            self.limit = max(self._floor, self.limit * max(DECREASE, self._target / mean))
        elif self._done and self._reached:
            self.limit += self._max_batch
        if now >= self._delay_end:
            excess = self._refused / max(1.0, REFUSED_SHARE * self._delay_done)
            if now > self._delay_end + self._delay:  # nobody came: the overload is over
                excess = 0.0
                self._delay = self._target
            self._delay *= min(8.0, max(0.5, math.sqrt(excess)))
            self._delay = min(LONGEST_DELAY, max(self._target, self._delay))
            self._delay_end = now + max(self._window, self._delay)
            self._refused = self._delay_done = 0
        # what was accepted under the limit as it was is not measured against the new one
        self._window_end = now + max(self._window, mean)
        self._done, self._seconds, self._reached = 0, 0.0, False


class InFlight:
    """The place of one message: counted in once and out once, however it ends."""

    __slots__ = ("_admission", "_entered", "_priority", "_timesteps")

    def __init__(self, admission: Admission, priority: int = 0, timesteps: int = 1) -> None:
        self._admission = admission
        self._priority = priority
        self._timesteps = timesteps

    def __enter__(self) -> None:
        admission = self._admission
        self._entered = admission.check(self._priority)
        admission.rate.take(self._timesteps)
        admission.in_flight += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._admission.leave(self._entered, self._timesteps, done=kind is None)
