"""One stream's side of a conversation: what it sends and what must come back.

Messages are made once and only their numbers are put in; replies are not parsed where the bytes that hold the number
can be compared. A talk knows one stream and the sessions on it, and nothing of connections or clocks.
"""

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


class WrongAnswer(Exception):
    """Not what the server should have said."""


class Refused(Exception):
    """The server did not execute the message; its number may be used again."""

    def __init__(self, step: int, why: str, retry_after: float) -> None:
        super().__init__(f"step {step} was refused: {why}")
        self.step = step
        self.retry_after = retry_after
        """Seconds until it may come again."""


@dataclass(frozen=True)
class Shape:
    """What each message carries."""

    model: str = "bench"
    inputs: Sequence[tuple[str, Sequence[int]]] = (("x", (40,)),)
    """Name and shape, all float32."""
    outputs: int = 8
    """Values that come back."""
    sessions: int = 1
    """A message."""
    timesteps: int = 0
    """A message of a session; 0: one, without a leading axis."""
    write_behind: bool = False
    keep: bool = False
    """Sessions that are closed stay in the store."""

    @property
    def message_timesteps(self) -> int:
        """Of a session."""
        return self.timesteps or 1

    def rows(self) -> list[bytes]:
        """One timestep's inputs, always the same."""
        draw = random.Random(0)
        return [
            struct.pack(f"<{prod(shape)}f", *(draw.random() for _ in range(prod(shape)))) for _, shape in self.inputs
        ]


class Talk:
    """With one kind of server, on one stream."""

    path: str
    unary = False
    """Each message is a call of its own."""
    refused = 0
    """Sessions of the message that is answered whole whose timesteps were not executed."""

    def opening(self) -> bytes | None:
        """What is sent first, and answered once; None: nothing."""
        return None

    def opened(self, answer: bytes) -> bool:
        """Whether the opening is answered whole now; WrongAnswer."""
        return True

    def message(self, number: int) -> bytes:
        """The message of this number, from 1."""
        raise NotImplementedError

    def complete(self, answer: bytes, number: int) -> int | None:
        """How many timesteps the message of this number advanced, once it is answered whole; Refused, WrongAnswer."""
        raise NotImplementedError

    def closing(self, number: int) -> bytes | None:
        """What ends the session behind the message of this number, and is answered once; None: nothing."""
        return None
