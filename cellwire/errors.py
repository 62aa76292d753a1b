"""The errors that an application may catch: one class for each reason, made from google.rpc.Status.

Each class knows what the library does about it (its remedy), as the table of the protocol says. Nothing here
knows a channel or a session.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar, Self, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cellwire.v1 import resume_pb2

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_STATUS_TRAILER = "grpc-status-details-bin"
_Detail = TypeVar("_Detail", bound=Message)


class Remedy(Enum):
    """What the library does about an error before the application sees it."""

    SURFACE = auto()
    """Nothing: the session has ended for this client."""
    SKIP = auto()
    """Only this message is refused; its number is free again and the session goes on."""
    BACK = auto()
    """Send again from the step that is expected."""
    LATER = auto()
    """Send again after the delay told."""
    REOPEN = auto()
    """Open again with the epoch told."""
    ELSEWHERE = auto()
    """Resume, on another replica first."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a session stands, told with an error."""

    step: int
    h: bytes
    epoch: int
    incarnation: bytes
    store_id: bytes


class CellwireError(Exception):
    """Base of everything that the library raises on account of the service.

    `reason` is a name of the closed list (or that of the gRPC code), `code` the gRPC status, `fields` the pairs
    (field, what was expected) of a bad input, `retry_after` seconds, `position` where the session stands, `step`
    the number of the refused message, where there is one.
    """

    reason: str = "UNKNOWN"
    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    remedy: ClassVar[Remedy] = Remedy.SURFACE
    _by_reason: ClassVar[dict[str, type["CellwireError"]]] = {}

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        code: grpc.StatusCode | None = None,
        fields: tuple[tuple[str, str], ...] = (),
        retry_after: float | None = None,
        position: Position | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.code = code or type(self).code
        self.fields = fields
        self.retry_after = retry_after
        self.position = position
        self.step: int | None = None

    def __init_subclass__(
        cls, reason: str = "", code: grpc.StatusCode | None = None, remedy: Remedy | None = None
    ) -> None:
        super().__init_subclass__()
        if reason:
            cls.reason = reason
            cls._by_reason[reason] = cls
        if code is not None:
            cls.code = code
        if remedy is not None:
            cls.remedy = remedy

    def __str__(self) -> str:
        expected = "; ".join(f"{field}: {text}" for field, text in self.fields if text not in self.message)
        return f"{self.reason}: {self.message}" + (f" ({expected})" if expected else "")

    @classmethod
    def named(cls, reason: str) -> type["CellwireError"]:
        """The class of a reason; the base for one that this release does not know."""
        return cls._by_reason.get(reason, CellwireError)

    def at(self, step: int) -> Self:
        """The same error, of the message with this number."""
        self.step = step
        return self


class InvalidInput(CellwireError, reason="INVALID_INPUT", remedy=Remedy.SKIP):
    """A field is not what was expected; `fields` says which. The state is untouched."""


class NonFinite(CellwireError, reason="NON_FINITE", remedy=Remedy.SKIP):
    """The model gave a NaN or an infinity; the state was not advanced."""


class ModelFailed(CellwireError, reason="MODEL_FAILED", remedy=Remedy.SKIP):
    """The model's graph failed on this timestep; the state was not advanced."""


class StepDeadline(CellwireError, reason="STEP_DEADLINE", code=grpc.StatusCode.DEADLINE_EXCEEDED, remedy=Remedy.SKIP):
    """The step's deadline passed before it was started."""


class Unsupported(CellwireError, reason="UNSUPPORTED", remedy=Remedy.SKIP):
    """The service does not serve this part of the protocol yet."""


class StepGap(CellwireError, reason="STEP_GAP", remedy=Remedy.BACK):
    """A step beyond the next one."""


class StepConflict(CellwireError, reason="STEP_CONFLICT"):
    """A committed step was sent again with other inputs."""


class StepTooOld(CellwireError, reason="STEP_TOO_OLD"):
    """The reply to a committed step is no longer kept; `position` tells the current one."""


class OpenExpected(CellwireError, reason="OPEN_EXPECTED"):
    """The first message of a stream must open a session."""


class LastStepMismatch(CellwireError, reason="LAST_STEP_MISMATCH"):
    """The session stands at another step than its close named."""


class Overloaded(CellwireError, reason="OVERLOADED", remedy=Remedy.LATER):
    """More work than the replica can do in time."""


class Quota(CellwireError, reason="QUOTA", remedy=Remedy.LATER):
    """A limit of the tenant is reached."""


class StoreFull(CellwireError, reason="STORE_FULL", remedy=Remedy.LATER):
    """The store's memory is full; nothing was written."""


class WindowExceeded(CellwireError, reason="WINDOW_EXCEEDED", remedy=Remedy.LATER):
    """More unanswered messages than the window."""


class SessionBusy(CellwireError, reason="SESSION_BUSY", remedy=Remedy.ELSEWHERE):
    """Somebody else holds the session, and this client has not its token."""


class Draining(CellwireError, reason="DRAINING", remedy=Remedy.ELSEWHERE):
    """The replica is going."""


class StoreUnavailable(CellwireError, reason="STORE_UNAVAILABLE", remedy=Remedy.ELSEWHERE):
    """The replica's store does not answer."""


class ModelNotHere(CellwireError, reason="MODEL_NOT_HERE", remedy=Remedy.ELSEWHERE):
    """The replica has not the version of the model that the session needs."""


class SlowConsumer(CellwireError, reason="SLOW_CONSUMER", remedy=Remedy.ELSEWHERE):
    """The replies were not read in time."""


class Disconnected(CellwireError, reason="DISCONNECTED", code=grpc.StatusCode.UNAVAILABLE, remedy=Remedy.ELSEWHERE):
    """The connection to a replica broke, could not be made, or gave no answer in time."""


class StaleOpen(CellwireError, reason="STALE_OPEN", remedy=Remedy.REOPEN):
    """The session was claimed since this client last knew it."""


class Superseded(CellwireError, reason="SUPERSEDED"):
    """Another holder of the session's token has taken it over. Never resumed by itself."""


class SessionClosed(CellwireError, reason="SESSION_CLOSED"):
    """The session was closed."""


class IncarnationMismatch(CellwireError, reason="INCARNATION_MISMATCH"):
    """The id has another life than the one named."""


class LineageMismatch(CellwireError, reason="LINEAGE_MISMATCH", code=grpc.StatusCode.FAILED_PRECONDITION):
    """The session went another way than this client's steps."""


class ModelChanged(CellwireError, reason="MODEL_CHANGED"):
    """The session belongs to another model, version or file."""


class AlreadyOpen(CellwireError, reason="ALREADY_OPEN"):
    """A stream opens one session, once."""


class CodecTooNew(CellwireError, reason="CODEC_TOO_NEW"):
    """The stored state was written by a newer release."""


class SessionExists(CellwireError, reason="SESSION_EXISTS"):
    """There is a session of this id already, and it is not this client's."""


class SessionUnknown(CellwireError, reason="SESSION_UNKNOWN"):
    """There is no such session."""


class SessionExpiredOrLost(CellwireError, reason="SESSION_EXPIRED_OR_LOST"):
    """The store, still the same, has the session no more."""


class ModelUnknown(CellwireError, reason="MODEL_UNKNOWN"):
    """There is no such model."""


class StateRegressed(CellwireError, reason="STATE_REGRESSED", code=grpc.StatusCode.DATA_LOSS):
    """The store fell back behind what it had acknowledged; `position` tells the step and h it holds."""


class StoreLost(CellwireError, reason="STORE_LOST", code=grpc.StatusCode.DATA_LOSS):
    """The store lost the session, or is another store."""


class StateCorrupt(CellwireError, reason="STATE_CORRUPT"):
    """The stored state cannot be read."""


class InternalError(CellwireError, reason="INTERNAL", code=grpc.StatusCode.INTERNAL):
    """Something unforeseen in the service; its log has the id in the message."""


class Unavailable(CellwireError, reason="UNAVAILABLE", code=grpc.StatusCode.UNAVAILABLE):
    """No replica brought the session on for `give_up_after` seconds; `__cause__` is the last reason."""


# Without ErrorInfo an error comes from the transport or a proxy: these codes say nothing about the session.
_TRANSPORT_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


def from_status(status: status_pb2.Status) -> CellwireError:
    """The error that a google.rpc.Status tells."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    reason = ""
    fields: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None
    position: Position | None = None
    for detail in status.details:
        if (told := _unpack(detail, error_details_pb2.ErrorInfo())) is not None:
            reason = told.reason if told.domain == "cellwire" else ""
        elif (bad := _unpack(detail, error_details_pb2.BadRequest())) is not None:
            fields = tuple((violation.field, violation.description) for violation in bad.field_violations)
        elif (delay := _unpack(detail, error_details_pb2.RetryInfo())) is not None:
            retry_after = delay.retry_delay.seconds + delay.retry_delay.nanos / 1e9
        elif (place := _unpack(detail, resume_pb2.Position())) is not None:
            position = Position(place.step, place.h, place.epoch, place.incarnation, place.store_id)
    if not reason and code in _TRANSPORT_CODES:
        kind: type[CellwireError] = Disconnected
    else:
        kind, reason = CellwireError.named(reason), reason or code.name
    if kind is StateRegressed and not (position and position.h):
        kind = Disconnected  # a stream met it; where the session stands now, and whether it can go on, an open tells
    return kind(status.message, reason=reason, code=code, fields=fields, retry_after=retry_after, position=position)


def from_rpc(
    code: grpc.StatusCode, details: str | None, trailers: Sequence[tuple[str, str | bytes]] | None
) -> CellwireError:
    """The error that ended an RPC: from its status details if it has them, else from its code and text."""
    for name, value in trailers or ():
        if name == _STATUS_TRAILER and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    return from_status(status_pb2.Status(code=code.value[0], message=details or code.name))


def _unpack(detail: AnyMessage, message: _Detail) -> _Detail | None:
    return message if detail.Unpack(message) else None
