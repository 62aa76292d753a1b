"""What an answer of the scripts means to who asked: a result, or one of our errors. Pure, but for counters and logs."""

import re
from typing import NamedTuple

import structlog

from service import errors, metrics
from service.errors import CellwireError, Position
from service.store.call import Answer, Told, Unanswered
from service.store.keys import session_of
from service.store.scripts import (
    Claim,
    Denied,
    Granted,
    Kill,
    Owner,
    Peek,
    Seen,
    claim_answer,
    peek_answer,
    stored,
)
from service.values import maker

logger = structlog.get_logger(__name__)


class Written(NamedTuple):
    """A write that the store took."""

    step: int
    """Where the session stands."""
    degraded: bool = False
    """Fewer replicas of the store hold it than were asked for."""


_written = maker(Written)


class ClaimLost(errors.StoreUnavailable):
    """A failover of the store lost this claim and nobody displaced it: the client resumes."""


def claimed(item: Claim, told: Told | Unanswered, store_id: bytes) -> Granted | CellwireError:
    """What a claim was answered; `store_id` is the store's own."""
    if isinstance(told, Unanswered):
        return told
    answer = told.answer
    if not isinstance(answer, list):
        return _store_error(answer)
    try:
        claim = claim_answer(answer)
        return claim if isinstance(claim, Granted) else _denied(item, claim, store_id)
    except (ValueError, IndexError):
        return _unreadable()


def peeked(item: Peek, told: Told | Unanswered) -> Seen | CellwireError:
    """What is known of a session, without its state."""
    if isinstance(told, Unanswered):
        return told
    answer = told.answer
    if answer == b"GONE":
        return _unknown(item.key)
    if not isinstance(answer, list):
        return _store_error(answer)
    try:
        return peek_answer(answer)
    except (ValueError, IndexError):
        return _unreadable()


def _unknown(key: bytes) -> CellwireError:
    return errors.SessionUnknown("no such session", resource=_resource(key))


def _resource(key: bytes) -> tuple[str, str]:
    return "cellwire.v1.Session", session_of(key)


def _denied(item: Claim, claim: Denied, store_id: bytes) -> CellwireError:
    position = Position(claim.step, claim.h, claim.epoch, b"", store_id)
    match claim.why:
        case "UNKNOWN":
            return _unknown(item.key)
        case "MISSING":
            told = item.resume_point.store_id if item.resume_point else b""
            if told not in (b"", store_id):
                return errors.StoreLost("the store is another one and does not have the session")
            return errors.SessionExpiredOrLost("the session expired or was lost", resource=_resource(item.key))
        case "STALE_OPEN":
            return errors.StaleOpen("the session was claimed since; open again", position=position)
        case "CLOSED":
            return errors.SessionClosed("the session was closed", position=position)
        case "EXISTS":
            return errors.SessionExists("a session of this id exists")
        case "INCARNATION":
            return errors.IncarnationMismatch("the id has another life now")
        case "MODEL_CHANGED":
            return errors.ModelChanged(f"the session belongs to {_model(claim.detail)}")
        case "MODEL_NOT_HERE":
            return errors.ModelNotHere(f"{_model(claim.detail)} is not on this replica")
        case "LINEAGE":
            return errors.LineageMismatch("the session went another way", position=position)
        case "TOO_OLD":
            return errors.StepTooOld("the step is older than the ring", position=position)
        case "REGRESSED":
            metrics.REGRESSIONS.inc()
            return errors.StateRegressed("the store fell back to an older step", position=position)
        case "BUSY":
            return errors.SessionBusy(
                "another replica holds the session",
                position=position,
                retry_after=stored(claim.detail.encode()) / 1000,
            )
    return _unexpected(claim.why)


def written(owner: Owner, told: Told | Unanswered) -> Written | CellwireError:
    """What a write was answered that this owner asked for."""
    if isinstance(told, Unanswered):
        return told
    answer, degraded, in_doubt = told
    try:
        if isinstance(answer, bytes) and answer[:3] == b"OK ":  # nearly always
            return _written((stored(answer[3:]), degraded))
        outcome = _outcome(owner, told)
    except ValueError:
        outcome = _unreadable()
    if isinstance(outcome, CellwireError):
        outcome.in_doubt = in_doubt
    return outcome


def released(owner: Owner, told: Told | Unanswered) -> Written | CellwireError:
    """What a release was answered. One that comes behind another claim is no write that was lost."""
    if isinstance(told, Told) and told.answer[:7] == b"FENCED ":
        return Written(0)
    return written(owner, told)


def _outcome(owner: Owner, told: Told) -> Written | CellwireError:
    word, first, second = _words(told.answer)
    match word:
        case b"OK" | b"DUPLICATE":
            return Written(stored(first or b"0"), told.degraded)
        case b"FENCED":
            metrics.FENCED.inc()
            # p, the epoch that the current claim displaced: below ours, ours was never seen by its claimer.
            if stored(second) >= owner.epoch:
                return errors.Superseded("another client claimed the session")
            return ClaimLost("the claim was lost in a failover; resume", retry_after=0.0)
        case b"MISMATCH" | b"GAP" | b"CONFLICT":  # the last two of a close, whose step was the Session's own
            metrics.REGRESSIONS.inc()
            return errors.StateRegressed(
                "the store holds another step than it told", position=Position(step=stored(first))
            )
        case b"CLOSED":
            return errors.SessionClosed("the session was closed", position=Position(step=stored(first)))
        case b"GONE":
            return errors.StoreLost("the store no longer has the session")
    return _store_error(told.answer)


def killed(item: Kill, told: Told | Unanswered) -> int:
    """The step at which an operator closed a session.

    Raises:
        CellwireError: he did not, or nobody knows.
    """
    if isinstance(told, Unanswered):
        raise told
    if told.answer == b"GONE":
        raise _unknown(item.key)
    word, first, _ = _words(told.answer)
    if word not in (b"OK", b"CLOSED"):
        raise _store_error(told.answer)
    try:
        return stored(first)
    except ValueError:
        raise _unreadable() from None


def _words(answer: Answer) -> tuple[bytes, bytes, bytes]:
    if isinstance(answer, list):
        return b"", b"", b""
    word, _, rest = answer.partition(b" ")
    first, _, second = rest.partition(b" ")
    return word, first, second


def _model(key: str) -> str:
    name, _, rest = key.partition("/")
    return f"model {name}, version {rest.partition('/')[0]}"


def _store_error(answer: Answer) -> CellwireError:
    if not isinstance(answer, bytes) or not re.fullmatch(rb"ERROR [A-Z]{1,32}", answer):
        return _unreadable()
    code = answer[6:].decode()
    metrics.STORE_ERRORS.labels(code).inc()
    if code == "OOM":
        return errors.StoreFull("the store's memory is full")
    if code == "WRONGTYPE":
        logger.error("store.wrong_type")
        return errors.StateCorrupt("the session's key holds something else")
    if code in ("CORRUPT", "SCRIPT"):
        return _unreadable()
    return errors.StoreUnavailable("the store refused the call")


def _unreadable() -> CellwireError:
    logger.error("store.unreadable_session")
    return errors.StateCorrupt("the stored session cannot be read")


def _unexpected(why: str) -> CellwireError:
    return errors.unforeseen("store.unexpected_answer", why=why)
