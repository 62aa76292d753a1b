"""What the service tells: where a session was opened, and the reply to each message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from cellwire.tensors import Array, TensorSpec, decode, spec_of
from cellwire.v1 import cell_service_pb2, model_service_pb2


@dataclass(frozen=True, slots=True)
class Opened:
    """Facts of a session when it was last opened."""

    target: str
    """The replica that holds it."""
    created: bool
    """False: it was resumed, with the memory of what came before."""
    step: int
    """Where it stood in the store."""
    epoch: int
    window: int
    """The most unanswered messages."""
    ring: int
    """So many last messages can be replayed."""
    max_timesteps: int
    """The most timesteps a message."""
    max_message_bytes: int
    idle_ttl: float
    """Seconds without a timestep after which the session may be forgotten."""
    write_behind: bool
    """Replies leave before the store holds them; `Reply.durable_step` tells how far it is."""
    max_undurable: int
    """In write-behind the most timesteps that the store does not hold yet."""
    replicas: int
    """So many replicas of the store hold a timestep before its reply leaves."""
    model: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, told: cell_service_pb2.Opened, target: str) -> Self:
        """From the wire."""
        return cls(
            target=target,
            created=told.created,
            step=told.step,
            epoch=told.epoch,
            window=told.window,
            ring=told.ring,
            max_timesteps=told.max_timesteps,
            max_message_bytes=told.max_message_bytes,
            idle_ttl=told.idle_ttl.seconds + told.idle_ttl.nanos / 1e9,
            write_behind=told.write_mode == cell_service_pb2.WRITE_MODE_WRITE_BEHIND,
            max_undurable=told.max_undurable,
            replicas=told.replicas,
            model=told.model,
            version=told.version,
            inputs=tuple(spec_of(spec) for spec in told.input_specs),
            outputs=tuple(spec_of(spec) for spec in told.output_specs),
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one message."""

    step: int
    """The number of its (last) timestep, from 1."""
    outputs: dict[str, Array]
    """Output name -> read-only array of one timestep; of a message of T timesteps with a leading axis T."""
    replayed: bool
    """Answered from the store: the state was not advanced again."""
    durable_step: int
    """The store holds the session up to here."""
    degraded: bool = False
    """Fewer store replicas hold it than were asked for."""

    @classmethod
    def of(cls, told: cell_service_pb2.Reply, order: Sequence[str]) -> Self:
        """From the wire; `order` names the tensors that travel without names."""
        tensors = told.outputs.tensors
        outputs = {tensor.name or order[place]: decode(tensor) for place, tensor in enumerate(tensors)}
        return cls(told.step, outputs, told.replayed, told.durable_step, told.degraded)


@dataclass(frozen=True, slots=True)
class Resumption:
    """One change of stream while a session was open."""

    target: str
    """The replica on which it went on."""
    step: int
    """The last step that the client had received."""
    found_step: int
    """Where the session stood in the store."""
    unanswered: int
    """Timesteps without a reply, sent again."""
    reason: str
    """Why the stream before it ended."""
    replayed: int = 0
    """Timesteps with a reply that the store does not hold, sent again; the application gets no second reply."""
    regressed: bool = False
    """The store had fallen back behind what it had told to be durable."""


@dataclass(frozen=True, slots=True)
class Model:
    """What a replica serves."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    """With each timestep."""
    constants: tuple[TensorSpec, ...]
    """Given once, when a session is opened."""
    outputs: tuple[TensorSpec, ...]
    gates: tuple[TensorSpec, ...]
    state: tuple[TensorSpec, ...]
    max_batch: int
    """1: its sessions are not batched."""

    @classmethod
    def of(cls, told: model_service_pb2.Model) -> Self:
        """From the wire."""

        def specs(of: Any) -> tuple[TensorSpec, ...]:
            return tuple(spec_of(spec) for spec in of)

        return cls(
            name=told.name,
            version=told.version,
            inputs=specs(told.inputs),
            constants=specs(told.constants),
            outputs=specs(told.outputs),
            gates=specs(told.gates),
            state=specs(state.tensor for state in told.state),
            max_batch=told.max_batch,
        )
