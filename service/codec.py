"""Protobuf <-> values. The checks on what a client sends are here, those of tensors in `tensors`, of many timesteps in
`columns`; what comes out of `decode_*` can be trusted.

Knows the message types, not gRPC. A message that cannot be parsed arrives as UNREADABLE.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

from cellwire.v1 import cell_service_pb2 as cell_pb
from cellwire.v1 import resume_pb2, tensor_pb2
from service.errors import CellwireError, OpenExpected, Quota
from service.tensors import decode_tensors, invalid, tag, varint
from service.values import DIGEST_BYTES, MAX_STEP, Checkpoint, Mode, ModelSpec, ResumePoint, Row, Timestep, maker

DOMAIN = "cellwire"
SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
VERSION = re.compile(r"[A-Za-z0-9._-]{0,128}")
TOKEN_BYTES = 16
MAX_REPLICAS = 64
MAX_UNDURABLE = 4096
"""Pairs of a resume point: those of U + W messages, whatever they are set to."""
_WRITE_MODES = {
    cell_pb.WRITE_MODE_UNSPECIFIED: None,
    cell_pb.WRITE_MODE_WRITE_THROUGH: False,
    cell_pb.WRITE_MODE_WRITE_BEHIND: True,
}
MAX_SECONDS = 315_576_000_000
"""Of a Duration, by its definition: about 10 000 years."""

_Message = TypeVar("_Message", bound=Message)


class Unreadable:
    """Stands for a message whose bytes are not one."""


UNREADABLE = Unreadable()
_timestep = maker(Timestep)


def reader(parse: Callable[[bytes], _Message]) -> Callable[[bytes], _Message | Unreadable]:
    """A gRPC request deserialiser that never raises: what cannot be parsed becomes UNREADABLE."""

    def read(raw: bytes) -> _Message | Unreadable:
        try:
            return parse(raw)
        except (DecodeError, UnicodeDecodeError):
            return UNREADABLE

    return read


read_stream = reader(cell_pb.StreamRequest.FromString)


def readable(message: object) -> None:
    """Refuses a message that could not be parsed."""
    if message is UNREADABLE:
        raise invalid("message", "a protobuf message of this method, strings in UTF-8")


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A checked Open."""

    session_id: str
    create_token: bytes
    mode: Mode
    model: str = ""
    version: str = ""
    resume_point: ResumePoint | None = None
    found_epoch: int = 0
    accept_regression: Checkpoint | None = None
    skip_lost_replies: bool = False
    replies_after: int | None = None
    write_behind: bool | None = None
    """None: as the model's manifest says."""
    replicas: int = 0
    unnumbered: bool = False
    outputs: tuple[str, ...] = ()
    gates: bool = False
    constants: Sequence[tensor_pb2.Tensor] = ()


def decode_session_id(session_id: str) -> str:
    """A session id, or InvalidInput."""
    if not SESSION_ID.fullmatch(session_id):
        raise invalid("session_id", "1 to 128 characters of A-Za-z0-9._:-")
    return session_id


def decode_open(message: cell_pb.Open) -> OpenRequest:
    """The checked form of an Open.

    Raises:
        InvalidInput: a field is not what was expected.
    """
    token = message.create_token
    if len(token) not in (0, TOKEN_BYTES):
        raise invalid("create_token", f"{TOKEN_BYTES} random bytes, or none")
    if message.mode not in cell_pb.OpenMode.values():
        raise invalid("mode", f"one of {', '.join(cell_pb.OpenMode.keys())}")
    if message.write_mode not in cell_pb.WriteMode.values():
        raise invalid("write_mode", f"one of {', '.join(cell_pb.WriteMode.keys())}")
    if message.found_epoch > MAX_STEP:
        raise invalid("found_epoch", f"at most {MAX_STEP}")
    mode = Mode(message.mode) if message.mode else Mode.CREATE_OR_RESUME
    if not message.model and mode is not Mode.RESUME:
        raise invalid("model", "a name, unless the session is resumed")
    if not VERSION.fullmatch(message.version):
        raise invalid("version", "up to 128 characters of A-Za-z0-9._-")
    if mode is Mode.RESUME:
        for field in ("constants", "outputs", "gates"):
            if getattr(message, field):
                raise invalid(field, "none on a resume: they are kept with the session")
    if message.replicas > MAX_REPLICAS:
        raise invalid("replicas", f"at most {MAX_REPLICAS}")
    if message.HasField("replies_after") and message.replies_after > MAX_STEP:
        raise invalid("replies_after", f"at most {MAX_STEP}")
    if len(message.resume_point.undurable) > MAX_UNDURABLE:
        raise invalid("resume_point.undurable", f"at most {MAX_UNDURABLE}")
    return OpenRequest(
        session_id=decode_session_id(message.session_id),
        create_token=token,
        mode=mode,
        model=message.model,
        version=message.version,
        resume_point=_resume_point(message.resume_point) if message.HasField("resume_point") else None,
        found_epoch=message.found_epoch,
        accept_regression=_checkpoint("accept_regression", message.accept_regression)
        if message.HasField("accept_regression")
        else None,
        skip_lost_replies=message.skip_lost_replies,
        replies_after=message.replies_after if message.HasField("replies_after") else None,
        write_behind=_WRITE_MODES[message.write_mode],
        replicas=message.replicas,
        unnumbered=message.unnumbered,
        outputs=tuple(message.outputs),
        gates=message.gates,
        constants=message.constants,
    )


def _checkpoint(field: str, message: resume_pb2.Checkpoint) -> Checkpoint:
    if message.step > MAX_STEP:
        raise invalid(f"{field}.step", f"at most {MAX_STEP}")
    if len(message.h) != DIGEST_BYTES:
        raise invalid(f"{field}.h", f"the {DIGEST_BYTES} bytes that a reply or Opened told")
    return Checkpoint(message.step, message.h)


def _resume_point(message: resume_pb2.ResumePoint) -> ResumePoint:
    received = _checkpoint("resume_point.received", message.received)
    if message.durable_step > MAX_STEP:
        raise invalid("resume_point.durable_step", f"at most {MAX_STEP}")
    if len(message.store_id) > 64:
        raise invalid("resume_point.store_id", "the bytes that Opened told")
    if len(message.incarnation) not in (0, DIGEST_BYTES):
        raise invalid("resume_point.incarnation", f"{DIGEST_BYTES} bytes, or none")
    undurable = tuple(_checkpoint("resume_point.undurable", at) for at in message.undurable)
    return ResumePoint(received, message.durable_step, message.store_id, message.incarnation, undurable)


def decode_outputs(spec: ModelSpec, asked: Sequence[str], gates: bool) -> tuple[str, ...]:
    """The names of the outputs to send, in the model's order."""
    outputs = [tensor.name for tensor in spec.outputs]
    known = outputs + [tensor.name for tensor in spec.gates]
    for name in asked:
        if name not in known:
            raise invalid("outputs", f"names of {', '.join(known)}")
    wanted = set(asked or outputs) | {tensor.name for tensor in spec.gates if gates}
    return tuple(name for name in known if name in wanted)


def decode_constants(spec: ModelSpec, tensors: Sequence[tensor_pb2.Tensor]) -> Row:
    """The constant inputs of a session, in the model's order."""
    return decode_tensors("constants", spec.constants, tensors, 0)[0]


def decode_timestep(
    message: cell_pb.Timestep, spec: ModelSpec, unnumbered: bool, max_timesteps: int, received: float
) -> Timestep:
    """The checked form of a Timestep of this model; its timeout counts from `received`, a monotonic time.

    Raises:
        InvalidInput: a field is not what was expected.
    """
    step = message.step
    if step > MAX_STEP:
        raise invalid("step", f"at most {MAX_STEP}")
    if unnumbered and step:
        raise invalid("step", "0 in a session opened unnumbered")
    if not unnumbered and not step:
        raise invalid("step", "from 1; unnumbered is chosen at open")
    timesteps = message.timesteps
    if timesteps > max_timesteps:
        raise invalid("timesteps", f"at most {max_timesteps}")
    if step + timesteps > MAX_STEP:
        raise invalid("timesteps", f"the last step at most {MAX_STEP}")
    deadline = received + decode_timeout("timeout", message.timeout) if message.HasField("timeout") else inf
    rows = decode_tensors("inputs", spec.inputs, message.inputs, timesteps)
    return _timestep((step, timesteps, rows, deadline, message.priority))


def decode_timeout(field: str, message: Duration) -> float:
    """Seconds of a Duration that leaves time for something."""
    seconds, nanos = message.seconds, message.nanos
    if not (0 <= seconds <= MAX_SECONDS and 0 <= nanos < 10**9 and (seconds or nanos)):
        raise invalid(field, "a Duration above 0")
    return float(seconds) + nanos / 10**9


def decode_stream(message: cell_pb.StreamRequest | Unreadable) -> cell_pb.StreamRequest:
    """A stream message whose kind is set."""
    readable(message)
    if not isinstance(message, cell_pb.StreamRequest) or message.WhichOneof("kind") is None:
        raise invalid("kind", "open, timestep or close")
    return message


def first_message(message: cell_pb.StreamRequest | Unreadable) -> cell_pb.Open:
    """The Open that a stream begins with."""
    request = decode_stream(message)
    if request.WhichOneof("kind") != "open":
        raise OpenExpected("the first message of a stream opens a session")
    return request.open


_REPLY_IN_STREAM = tag(cell_pb.StreamResponse.REPLY_FIELD_NUMBER)
_OUTPUTS_IN_REPLY = tag(cell_pb.Reply.OUTPUTS_FIELD_NUMBER)


class Reply(NamedTuple):
    """The answer to one message: its stored part is `step`, `h`, `timesteps` and `outputs` (serialized Outputs)."""

    step: int
    h: bytes
    epoch: int
    durable_step: int
    timesteps: int
    outputs: bytes
    replayed: bool = False
    degraded: bool = False


def encode_reply(reply: Reply) -> bytes:
    """A serialized StreamResponse with the reply; its outputs go out byte for byte as they are stored."""
    step, h, epoch, durable_step, timesteps, outputs, replayed, degraded = reply
    message = cell_pb.Reply(step=step, h=h, epoch=epoch, durable_step=durable_step)
    if timesteps or replayed or degraded:  # seldom, and setting a field costs
        message.MergeFrom(cell_pb.Reply(timesteps=timesteps, replayed=replayed, degraded=degraded))
    head, size = message.SerializeToString(), varint(len(outputs))
    length = len(head) + len(_OUTPUTS_IN_REPLY) + len(size) + len(outputs)
    return b"".join((_REPLY_IN_STREAM, varint(length), head, _OUTPUTS_IN_REPLY, size, outputs))


def reply_message(reply: Reply) -> cell_pb.Reply:
    """The reply as a message, for StepResponse."""
    return cell_pb.StreamResponse.FromString(encode_reply(reply)).reply


def duration(seconds: float) -> Duration:
    """Seconds as a protobuf Duration, to the millisecond; at most the longest that there is."""
    result = Duration()
    result.FromMilliseconds(round(min(max(0.0, seconds), MAX_SECONDS) * 1000))
    return result


def encode_status(error: CellwireError) -> Status:
    """The error as google.rpc.Status with its details."""
    status = Status(code=error.code.value[0], message=error.message)
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.fields:
        details.append(
            BadRequest(
                field_violations=[
                    BadRequest.FieldViolation(field=field, description=expected) for field, expected in error.fields
                ]
            )
        )
    if error.retry_after is not None:
        details.append(RetryInfo(retry_delay=duration(error.retry_after)))
    if isinstance(error, Quota):
        violation = QuotaFailure.Violation(subject="tenant", description=error.quota)
        details.append(QuotaFailure(violations=[violation]))
    if error.resource:
        details.append(ResourceInfo(resource_type=error.resource[0], resource_name=error.resource[1]))
    if error.position:
        at = error.position
        details.append(
            resume_pb2.Position(step=at.step, h=at.h, epoch=at.epoch, incarnation=at.incarnation, store_id=at.store_id)
        )
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def encode_refused(step: int, error: CellwireError) -> cell_pb.StreamResponse:
    """An error in band: the message was not executed, the stream goes on."""
    return cell_pb.StreamResponse(refused=cell_pb.Refused(step=step, status=encode_status(error)))


def encode_notice(error: CellwireError) -> cell_pb.StreamResponse:
    """The last message before the server ends a stream."""
    return cell_pb.StreamResponse(notice=cell_pb.Notice(status=encode_status(error)))
