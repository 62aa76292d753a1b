"""A way through places where one waits: a generator that each place resumes with its answer.

It is neither a task nor a future of the event loop: a batch that is answered goes on by plain calls, one a waiter.
"""

from collections.abc import Callable, Generator
from typing import Any, Generic, Protocol, TypeVar

Result = TypeVar("Result")


class Place(Protocol):
    """Where one waits: a batcher, or the tail of a session."""

    def put(self, item: Any, waiter: Any, deadline: float) -> None:
        """Answers the waiter once, by set_result or set_exception; one that has left takes none."""


Stop = tuple[Place, Any, float]
"""What a way waits for: the place, what is put there, and until when it may be taken (monotonic)."""


class Way(Generic[Result]):
    """Runs the generator; `arrived` is called once with what it returned or raised, unless the way was left."""

    __slots__ = ("_arrived", "_stops", "left")

    def __init__(self, stops: Generator[Stop, Any, Result], arrived: Callable[[Result | BaseException], None]) -> None:
        self._stops = stops
        self._arrived = arrived
        self.left = False
        """Nobody waits any more, or it has arrived."""
        self.set_result(None)

    def set_result(self, result: object) -> None:
        """The answer of the place where it waits."""
        if self.left:
            return
        try:
            place, item, deadline = self._stops.send(result)
            place.put(item, self, deadline)
        except StopIteration as end:
            self.left = True
            self._arrived(end.value)
        except BaseException as error:
            self._fail(error)

    def set_exception(self, error: BaseException) -> None:
        """The same, when there is none."""
        if self.left:
            return
        try:
            place, item, deadline = self._stops.throw(error)
            place.put(item, self, deadline)
        except StopIteration as end:
            self.left = True
            self._arrived(end.value)
        except BaseException as failure:
            self._fail(failure)

    def leave(self) -> None:
        """Ends it where it waits: the generator is closed, and nobody is told."""
        if not self.left:
            self.left = True
            self._stops.close()

    def _fail(self, error: BaseException) -> None:
        self.leave()
        self._arrived(error)
