"""The closed list of errors: each reason with its gRPC status. Nothing else reaches a client.

Knows no message type; the codec turns an error into google.rpc.Status. Messages name fields and numbers,
never values of tensors, tokens, or the text of another exception.
"""

import secrets
from dataclasses import dataclass

import structlog
from grpc import StatusCode

logger = structlog.get_logger(__name__)

RETRY_AFTER = 1.0
"""Seconds, where nothing better is known."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a session stands, told with an error so that its client can go on."""

    step: int = 0
    h: bytes = b""
    epoch: int = 0
    incarnation: bytes = b""
    store_id: bytes = b""


@dataclass(eq=False)
class CellwireError(Exception):
    """An error that a client is told: a refusal (nothing changed) unless its class says that it ends the stream."""

    message: str
    fields: tuple[tuple[str, str], ...] = ()
    """(field, what was expected) for bad input."""
    retry_after: float | None = None
    """Seconds; who is told that something is unavailable or exhausted is always told when to come again."""
    position: Position | None = None
    resource: tuple[str, str] | None = None
    """(type, name) of what was not found."""
    in_doubt: bool = False
    """The write that met it was sent more than once: an earlier copy may have been executed."""

    code = StatusCode.INTERNAL
    reason = "INTERNAL"
    ends_stream = False

    def __post_init__(self) -> None:
        super().__init__(self.message)
        if self.retry_after is None and self.code in (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED):
            self.retry_after = RETRY_AFTER


class InternalError(CellwireError):
    """Anything unforeseen: fixed text and an id that the log has."""

    ends_stream = True


# refused in band: the session and its stream go on
class InvalidInput(CellwireError):
    """A field is not what was expected."""

    code, reason = StatusCode.INVALID_ARGUMENT, "INVALID_INPUT"


class LastStepMismatch(CellwireError):
    """A close names another last step than the session's."""

    code, reason = StatusCode.FAILED_PRECONDITION, "LAST_STEP_MISMATCH"


class StepGap(CellwireError):
    """A step beyond the next one."""

    code, reason = StatusCode.FAILED_PRECONDITION, "STEP_GAP"


class StepConflict(CellwireError):
    """A committed step again, with other inputs or another span."""

    code, reason = StatusCode.FAILED_PRECONDITION, "STEP_CONFLICT"


class StepTooOld(CellwireError):
    """A committed step whose reply is no longer kept."""

    code, reason = StatusCode.OUT_OF_RANGE, "STEP_TOO_OLD"


class NonFinite(CellwireError):
    """The model gave a NaN or an infinity; the state was not advanced."""

    code, reason = StatusCode.INTERNAL, "NON_FINITE"


class ModelFailed(CellwireError):
    """The model's graph failed on this timestep; the state was not advanced."""

    code, reason = StatusCode.INTERNAL, "MODEL_FAILED"


class Overloaded(CellwireError):
    """More work than the replica can do in time."""

    code, reason = StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"


@dataclass(eq=False)
class Quota(CellwireError):
    """A limit of the tenant; `quota` is its name among the settings."""

    quota: str = ""
    code, reason = StatusCode.RESOURCE_EXHAUSTED, "QUOTA"


class StoreFull(CellwireError):
    """The store's memory is full; nothing was written."""

    code, reason = StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"


class StepDeadline(CellwireError):
    """The step's deadline passed before it was started."""

    code, reason = StatusCode.DEADLINE_EXCEEDED, "STEP_DEADLINE"


class AlreadyOpen(CellwireError):
    """A stream opens one session, once."""

    code, reason = StatusCode.FAILED_PRECONDITION, "ALREADY_OPEN"


class WindowExceeded(CellwireError):
    """More unanswered messages of a handle than its window."""

    code, reason = StatusCode.RESOURCE_EXHAUSTED, "WINDOW_EXCEEDED"


class Unsupported(CellwireError):
    """A part of the protocol that this release does not serve."""

    code, reason = StatusCode.UNIMPLEMENTED, "UNSUPPORTED"


# refused at open, or the end of a stream: the session stays in the store
class OpenExpected(CellwireError):
    """The first message of a stream must open a session."""

    code, reason, ends_stream = StatusCode.FAILED_PRECONDITION, "OPEN_EXPECTED", True


class SessionBusy(CellwireError):
    """Another replica holds the session and the caller showed no token."""

    code, reason, ends_stream = StatusCode.UNAVAILABLE, "SESSION_BUSY", True


class Draining(CellwireError):
    """This replica is going; another one serves."""

    code, reason, ends_stream = StatusCode.UNAVAILABLE, "DRAINING", True


class StoreUnavailable(CellwireError):
    """The store does not answer; whether a step in hand was committed, a resume tells."""

    code, reason, ends_stream = StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", True


class ModelNotHere(CellwireError):
    """The session's version of its model is not on this replica."""

    code, reason, ends_stream = StatusCode.UNAVAILABLE, "MODEL_NOT_HERE", True


class StaleOpen(CellwireError):
    """The session was claimed since the caller last knew; open again with the epoch told."""

    code, reason, ends_stream = StatusCode.ABORTED, "STALE_OPEN", True


class Superseded(CellwireError):
    """Somebody else claimed the session."""

    code, reason, ends_stream = StatusCode.ABORTED, "SUPERSEDED", True


class SessionClosed(CellwireError):
    """The session was closed."""

    code, reason, ends_stream = StatusCode.FAILED_PRECONDITION, "SESSION_CLOSED", True


class IncarnationMismatch(CellwireError):
    """The id has another life than the one named."""

    code, reason, ends_stream = StatusCode.FAILED_PRECONDITION, "INCARNATION_MISMATCH", True


class LineageMismatch(CellwireError):
    """The session went another way than the caller's."""

    code, reason, ends_stream = StatusCode.FAILED_PRECONDITION, "LINEAGE_MISMATCH", True


class ModelChanged(CellwireError):
    """The session belongs to another model, version or file than the one named or served."""

    code, reason, ends_stream = StatusCode.FAILED_PRECONDITION, "MODEL_CHANGED", True


class CodecTooNew(CellwireError):
    """The stored state was written by a newer release."""

    code, reason, ends_stream = StatusCode.FAILED_PRECONDITION, "CODEC_TOO_NEW", True


class SessionExists(CellwireError):
    """Create found a session of this id."""

    code, reason, ends_stream = StatusCode.ALREADY_EXISTS, "SESSION_EXISTS", True


class SessionUnknown(CellwireError):
    """No such session."""

    code, reason, ends_stream = StatusCode.NOT_FOUND, "SESSION_UNKNOWN", True


class SessionExpiredOrLost(CellwireError):
    """The caller knew the session; the store, which is the same, has it no more."""

    code, reason, ends_stream = StatusCode.NOT_FOUND, "SESSION_EXPIRED_OR_LOST", True


class ModelUnknown(CellwireError):
    """No such model."""

    code, reason, ends_stream = StatusCode.NOT_FOUND, "MODEL_UNKNOWN", True


class StateRegressed(CellwireError):
    """The store fell back behind what it had acknowledged."""

    code, reason, ends_stream = StatusCode.DATA_LOSS, "STATE_REGRESSED", True


class StoreLost(CellwireError):
    """The store lost the session, or is another store."""

    code, reason, ends_stream = StatusCode.DATA_LOSS, "STORE_LOST", True


class StateCorrupt(CellwireError):
    """The stored state cannot be read."""

    code, reason, ends_stream = StatusCode.DATA_LOSS, "STATE_CORRUPT", True


class SlowConsumer(CellwireError):
    """The client does not read its replies."""

    code, reason, ends_stream = StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER", True


def internal_error(error: BaseException, method: str) -> InternalError:
    """The error that stands for one that nobody foresaw; it is in the log."""
    return unforeseen("rpc.internal_error", method=method, exc_info=error)


def unforeseen(event: str, **what: object) -> InternalError:
    """What a client is told of what only the log has: an id to find it there."""
    error_id = secrets.token_hex(4)
    logger.error(event, error_id=error_id, **what)
    return InternalError(f"internal error {error_id}")
