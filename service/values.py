"""The values that travel between the floors: what a model is, what one timestep is, where a session stands.

Everything here is immutable and knows neither gRPC, nor Redis, nor ONNX Runtime. Tensors travel as raw
little-endian bytes of one timestep of one session; shapes and dtypes stand once, in the ModelSpec.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from hashlib import blake2b, sha256
from math import inf, prod
from typing import Any, NamedTuple, TypeVar

import numpy as np

DIGEST_BYTES = 16
MAX_STEP = 2**53 - 1
"""Steps are compared in Lua, whose numbers are doubles."""

ZERO_DIGEST = bytes(DIGEST_BYTES)

Named = TypeVar("Named", bound=tuple[Any, ...])


def maker(kind: type[Named]) -> Callable[[Iterable[Any]], Named]:
    """Makes a NamedTuple of all its fields in their order, for what is made several times a timestep: calling the class
    goes through a function in Python, which takes longer than the tuple."""
    return partial(tuple.__new__, kind)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of one timestep of one session: `shape` has neither batch nor time axis."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    batch_axis: int | None = 0
    """Where the graph has the batch; None: the graph has no batch axis for it."""

    nbytes: int = field(init=False, repr=False, compare=False)
    """Bytes of one timestep of one session."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nbytes", prod(self.shape) * self.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class InputSpec(TensorSpec):
    """An input that comes from the client, with each message or once at open."""

    low: int | None = None
    high: int | None = None
    """Inclusive range of an integer input (an index into an embedding)."""
    carry: int = 0
    """So many last values along the last axis are put before the next ones by the cell: the carry window."""


@dataclass(frozen=True, slots=True)
class FixedSpec:
    """An input whose value the manifest fixes, such as a sampling rate."""

    name: str
    value: np.ndarray


@dataclass(frozen=True, slots=True)
class StateSpec(TensorSpec):
    """A tensor that the cell carries from one timestep to the next."""

    output: str | None = None
    """The graph's output that holds its next value; None for a carry window."""
    carried_input: str | None = None
    """The input whose last values a carry window holds."""
    initial: bytes = b""
    """Raw bytes at step 0, nbytes long."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version of a model: the contract between its graph, the service and its clients."""

    name: str
    version: str
    digest: bytes
    """Of the graph, its external files and the manifest's state contract; 16 bytes."""
    inputs: tuple[InputSpec, ...]
    """With each message, in the manifest's order."""
    constants: tuple[InputSpec, ...]
    """Once a session, at open."""
    fixed: tuple[FixedSpec, ...]
    outputs: tuple[TensorSpec, ...]
    gates: tuple[TensorSpec, ...]
    state: tuple[StateSpec, ...]
    max_batch: int
    """1: sessions are not batched."""
    time_axis: int | None
    """Where inputs and outputs of the graph have T timesteps, counted in the graph's own axes; None: one a call."""
    idle_ttl: float | None
    """Seconds without a timestep after which a session may be forgotten; None: the service's setting."""
    write_behind: bool
    """What a session gets whose client does not choose."""
    provider: str
    """ONNX Runtime execution provider."""

    @property
    def key(self) -> str:
        """What a session keeps of its model: name, version and digest."""
        return f"{self.name}/{self.version}/{self.digest.hex()}"

    @property
    def state_bytes(self) -> int:
        """Bytes of one session's state."""
        return sum(tensor.nbytes for tensor in self.state)

    @property
    def initial_state(self) -> bytes:
        """The state at step 0."""
        return b"".join(tensor.initial for tensor in self.state)


Row = tuple[bytes, ...]
"""One timestep: the raw bytes of each input (or output), in the ModelSpec's order."""


class Timestep(NamedTuple):
    """A checked message: T consecutive timesteps, run whole or refused whole."""

    step: int
    """The number of the first; 0 in an unnumbered session."""
    timesteps: int
    """As the client gave it: 0 is one timestep without a leading axis."""
    rows: tuple[Row, ...]
    deadline: float = inf
    """Monotonic time until which it must enter a batch."""
    priority: int = 0


class CellWork(NamedTuple):
    """What a cell takes of one session: (state, inputs) of T >= 1 timesteps, more than one only with a time axis."""

    state: bytes
    rows: tuple[Row, ...]
    constants: Row = ()


class CellResult(NamedTuple):
    """What a cell gives back: the next state and, for each timestep, its outputs followed by its gates."""

    state: bytes
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place in the history of a session."""

    step: int
    h: bytes


class Mode(IntEnum):
    """What an open may do."""

    CREATE = 1
    RESUME = 2
    CREATE_OR_RESUME = 3
    RESTART = 4


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What the caller last knew of its session."""

    received: Checkpoint
    durable_step: int
    store_id: bytes = b""
    incarnation: bytes = b""
    undurable: tuple[Checkpoint, ...] = ()


def shape_signature(specs: Sequence[TensorSpec]) -> tuple[bytes, ...]:
    """What the chain digest takes of each input beside its bytes: dtype and shape, unambiguously."""
    return tuple(f"{spec.dtype.name}{list(spec.shape)}:".encode() for spec in specs)


def chain(h: bytes, signature: Sequence[bytes], row: Row) -> bytes:
    """h(n) = BLAKE2b-128 over h(n-1) and, for each input in order, its dtype, shape and bytes."""
    if len(row) == 1:
        text = h + signature[0] + row[0]
    else:
        text = h + b"".join([part for pair in zip(signature, row, strict=True) for part in pair])
    return blake2b(text, digest_size=DIGEST_BYTES).digest()


def chain_origin(incarnation: bytes, model: str, options: bytes) -> bytes:
    """h(0) = BLAKE2b-128 over the incarnation, the model and the open options."""
    text = model.encode()
    head = len(text).to_bytes(4, "little") + len(options).to_bytes(4, "little")
    return blake2b(incarnation + head + text + options, digest_size=DIGEST_BYTES).digest()


def incarnation_of(create_token: bytes) -> bytes:
    """The first 16 bytes of SHA-256 of the create token: tells lives of an id apart without giving the token away."""
    return sha256(create_token).digest()[:16]
