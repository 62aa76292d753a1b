"""What one turn of the event loop brings, done in one go.

Each message comes by itself, through the whole of gRPC, the kernel and the event loop: Python code that runs once in
between finds its caches cold, and takes several times as long as in a loop over what came together.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turn(Generic[Item]):
    """Calls `do` with each item that was put, in the next turn of the event loop. `do` does not raise."""

    def __init__(self, do: Callable[[Item], None]) -> None:
        self._do = do
        self._items: list[Item] = []
        self._loop = asyncio.get_running_loop()

    def put(self, item: Item) -> None:
        """One more."""
        if not self._items:
            self._loop.call_soon(self._run)
        self._items.append(item)

    def _run(self) -> None:
        items, self._items = self._items, []
        for item in items:
            self._do(item)
