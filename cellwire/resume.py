"""Where a client stands in a session: all that it takes to go on later, elsewhere, from another program.

A secret: its holder can resume and close the session. Its repr shows neither token nor digest.
"""

import json
import secrets
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from cellwire.v1 import resume_pb2

_VERSION = 1
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

    @classmethod
    def new(cls, session_id: str, model: str, version: str = "") -> Self:
        """Of a session that is still to be created, with a token of its own."""
        return cls(session_id, secrets.token_bytes(16), model, version)

    def to_json(self) -> str:
        """As text, to be kept as a secret."""
        values: dict[str, Any] = asdict(self)
        for name in _BYTES:
            values[name] = values[name].hex()
        return json.dumps({"resume_point": _VERSION, **values})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` gave. ValueError for anything else."""
        try:
            values = json.loads(text)
            if values.pop("resume_point") != _VERSION:
                raise ValueError("made by another release")
            for name in _BYTES:
                values[name] = bytes.fromhex(values[name])
            point = cls(**values)
            if not all(isinstance(getattr(point, name), str) for name in _TEXTS):
                raise ValueError("a name that is no text")
            if not all(type(getattr(point, name)) is int and 0 <= getattr(point, name) < 2**64 for name in _NUMBERS):
                raise ValueError("a number that is none of the wire's")
            return point
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
            raise ValueError("not a resume point of this release") from None  # the text is a secret: not told

    def message(self) -> resume_pb2.ResumePoint:
        """For the wire; the token and the epoch travel beside it in Open."""
        return resume_pb2.ResumePoint(
            received=resume_pb2.Checkpoint(step=self.step, h=self.h),
            durable_step=self.durable_step,
            store_id=self.store_id,
            incarnation=self.incarnation,
        )
