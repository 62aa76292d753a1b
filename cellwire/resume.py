"""Where a client stands in a session: all that it takes to go on later, elsewhere, from another program.

A secret: its holder can resume and close the session. Its repr shows neither token nor digest.
"""

import json
import secrets
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from cellwire.errors import Position
from cellwire.v1 import resume_pb2

Checkpoint = tuple[int, bytes]
"""A step and the digest of the history that ends with it."""

_VERSION = 2
_READABLE = (1, 2)
"""Version 1 had no `undurable`."""
_TEXTS = ("session_id", "model", "version")
_NUMBERS = ("step", "durable_step", "epoch")
_BYTES = ("token", "h", "store_id", "incarnation")


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The token of a session and what the client last knew of it. With `epoch` 0 it was never opened."""

    session_id: str
    token: bytes = field(repr=False)
    """16 random bytes."""
    model: str = ""
    version: str = ""
    step: int = 0
    """The last received step."""
    h: bytes = field(default=b"", repr=False)
    durable_step: int = 0
    epoch: int = 0
    store_id: bytes = field(default=b"", repr=False)
    incarnation: bytes = field(default=b"", repr=False)
    undurable: tuple[Checkpoint, ...] = field(default=(), repr=False)
    """The received steps above `durable_step`; there are some in write-behind only."""

    @classmethod
    def new(cls, session_id: str, model: str, version: str = "") -> Self:
        """Of a session that is still to be created, with a token of its own."""
        return cls(session_id, secrets.token_bytes(16), model, version)

    def to_json(self) -> str:
        """As text, to be kept as a secret."""
        values: dict[str, Any] = asdict(self)
        for name in _BYTES:
            values[name] = values[name].hex()
        values["undurable"] = [[step, h.hex()] for step, h in self.undurable]
        return json.dumps({"resume_point": _VERSION, **values})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` gave. ValueError for anything else."""
        try:
            values = json.loads(text)
            if values.pop("resume_point") not in _READABLE:
                raise ValueError("made by another release")
            for name in _BYTES:
                values[name] = bytes.fromhex(values[name])
            undurable = tuple((int(step), bytes.fromhex(h)) for step, h in values.pop("undurable", ()))
            point = cls(**values, undurable=undurable)
            if not all(isinstance(getattr(point, name), str) for name in _TEXTS):
                raise ValueError("a name that is no text")
            if not all(type(getattr(point, name)) is int and 0 <= getattr(point, name) < 2**64 for name in _NUMBERS):
                raise ValueError("a number that is none of the wire's")
            return point
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
            raise ValueError("not a resume point of this release") from None  # the text is a secret: not told

    def back_to(self, place: Position) -> Self:
        """Of a client that knows that the store fell back, and goes on from where StateRegressed says it stands.

        Its next timestep is `place.step` + 1: replies that it got to that one and later ones no longer count.
        """
        return replace(
            self, step=place.step, h=place.h, durable_step=place.step, epoch=place.epoch or self.epoch, undurable=()
        )

    def message(self) -> resume_pb2.ResumePoint:
        """For the wire; the token and the epoch travel beside it in Open."""
        return resume_pb2.ResumePoint(
            received=resume_pb2.Checkpoint(step=self.step, h=self.h),
            durable_step=self.durable_step,
            store_id=self.store_id,
            incarnation=self.incarnation,
            undurable=[resume_pb2.Checkpoint(step=step, h=h) for step, h in self.undurable],
        )
