"""What a client process is told to do, and what it tells: both cross as JSON. Knows nothing of how it is done."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.client.talk import Shape

Program = Literal["closed", "open", "churn", "idle"]


@dataclass(frozen=True)
class Task:
    """A load on one server."""

    target: str = ""
    dialect: str = ""
    """Empty: the server's own."""
    program: Program = "closed"
    """closed: the next message when the last is answered; open: at fixed times; churn: sessions of ten steps, or of
    `steps_a_session`; idle: one step a session, then nothing."""
    shape: Shape = field(default_factory=Shape)
    streams: int = 32
    connections: int = 8
    warm: float = 1.0
    seconds: float = 0.0
    """Of what counts; 0 in the suite: as its plan says."""
    rate: float = 0.0
    """Messages a second of all streams together, of an open loop."""
    in_flight: int = 0
    """So many streams at a time have a message under way, in turn; 0: all."""
    sessions: int = 0
    """That a churn goes through, whatever time it takes; 0: as many as there is time for."""
    steps_a_session: int = 10
    reply_bytes: int = 0
    """Of the echo."""
    library: bool = False
    """Speak through grpc.aio, as most Python clients do."""
    prefix: str = "bench"
    """Of the names of sessions."""
    watch: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Processes whose CPU and memory are read, by name."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Task":
        values: dict[str, Any] = json.loads(text)
        shape = values["shape"]
        shape["inputs"] = tuple((name, tuple(dims)) for name, dims in shape["inputs"])
        return cls(**{**values, "shape": Shape(**shape)})


@dataclass
class Told:
    """What was seen between two instants, at which the processes were read, too."""

    seconds: float = 0.0
    messages: int = 0
    steps: int = 0
    sessions: int = 0
    refused: int = 0
    all_steps: int = 0
    """Since the beginning."""
    request_bytes: int = 0
    """Of one message."""
    reply_bytes: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    client_cpu: float = 0.0
    """Seconds."""
    cpu: dict[str, float] = field(default_factory=dict)
    """Seconds, by name."""
    resident: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Bytes at both instants, by name."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Told":
        return cls(**json.loads(text))
