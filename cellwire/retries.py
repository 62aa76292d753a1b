"""When and how often the library tries again: full-jitter exponential backoff, never before the delay told."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from cellwire.errors import CellwireError, Remedy, Unavailable

AGAIN = frozenset({Remedy.ELSEWHERE, Remedy.REOPEN, Remedy.LATER})
"""Remedies after which another try may succeed."""

_backoff = wait_random_exponential(multiplier=0.05, max=2.0)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the library waits, in seconds."""

    reply: float = 2.0
    """For the next answer of a replica that owes one, before going elsewhere."""
    open: float = 5.0
    """For a replica to open the session."""
    give_up: float = 60.0
    """For any replica to bring the oldest message on, before `Unavailable`."""


def retrying(num_targets: int, gives_up: Callable[[], bool]) -> AsyncRetrying:
    """Attempts until one succeeds, fails for good, or it is time to give up; then its error is raised."""

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, CellwireError) or error.remedy is Remedy.REOPEN:
            return 0.0
        # "elsewhere" need not wait for this replica before every other one was asked
        asked_all = error.remedy is Remedy.LATER or state.attempt_number % num_targets == 0
        return max(_backoff(state), jittered(error.retry_after or 0.0) if asked_all else 0.0)

    return AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, CellwireError) and error.remedy in AGAIN),
        wait=wait,
        stop=lambda state: gives_up(),
        reraise=True,
    )


def jittered(delay: float) -> float:
    """At least the delay that was told, and up to twice that: many clients are told the same."""
    return random.uniform(delay, 2 * delay)  # noqa: S311


def final(error: CellwireError, patience: Patience) -> CellwireError:
    """The error for the application once nothing more is tried: itself, or Unavailable if it was worth trying."""
    if error.remedy not in AGAIN:
        return error
    given_up = Unavailable(
        f"gave up after {patience.give_up:g} s; the last reason was {error}", position=error.position
    )
    given_up.__cause__ = error
    return given_up
