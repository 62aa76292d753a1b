import datetime

from cellwire.v1 import resume_pb2 as _resume_pb2
from cellwire.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OpenMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPEN_MODE_UNSPECIFIED: _ClassVar[OpenMode]
    OPEN_MODE_CREATE: _ClassVar[OpenMode]
    OPEN_MODE_RESUME: _ClassVar[OpenMode]
    OPEN_MODE_CREATE_OR_RESUME: _ClassVar[OpenMode]

class WriteMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WRITE_MODE_UNSPECIFIED: _ClassVar[WriteMode]
    WRITE_MODE_WRITE_THROUGH: _ClassVar[WriteMode]
    WRITE_MODE_WRITE_BEHIND: _ClassVar[WriteMode]
OPEN_MODE_UNSPECIFIED: OpenMode
OPEN_MODE_CREATE: OpenMode
OPEN_MODE_RESUME: OpenMode
OPEN_MODE_CREATE_OR_RESUME: OpenMode
WRITE_MODE_UNSPECIFIED: WriteMode
WRITE_MODE_WRITE_THROUGH: WriteMode
WRITE_MODE_WRITE_BEHIND: WriteMode

class Open(_message.Message):
    __slots__ = ("session_id", "create_token", "mode", "model", "version", "resume_point", "found_epoch", "accept_regression", "skip_lost_replies", "replies_after", "unnumbered", "write_mode", "replicas", "outputs", "gates", "constants", "metadata", "traceparent", "tracestate")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RESUME_POINT_FIELD_NUMBER: _ClassVar[int]
    FOUND_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_REGRESSION_FIELD_NUMBER: _ClassVar[int]
    SKIP_LOST_REPLIES_FIELD_NUMBER: _ClassVar[int]
    REPLIES_AFTER_FIELD_NUMBER: _ClassVar[int]
    UNNUMBERED_FIELD_NUMBER: _ClassVar[int]
    WRITE_MODE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    CONSTANTS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    create_token: bytes
    mode: OpenMode
    model: str
    version: str
    resume_point: _resume_pb2.ResumePoint
    found_epoch: int
    accept_regression: _resume_pb2.Checkpoint
    skip_lost_replies: bool
    replies_after: int
    unnumbered: bool
    write_mode: WriteMode
    replicas: int
    outputs: _containers.RepeatedScalarFieldContainer[str]
    gates: bool
    constants: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    metadata: bool
    traceparent: str
    tracestate: str
    def __init__(self, session_id: _Optional[str] = ..., create_token: _Optional[bytes] = ..., mode: _Optional[_Union[OpenMode, str]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., resume_point: _Optional[_Union[_resume_pb2.ResumePoint, _Mapping]] = ..., found_epoch: _Optional[int] = ..., accept_regression: _Optional[_Union[_resume_pb2.Checkpoint, _Mapping]] = ..., skip_lost_replies: _Optional[bool] = ..., replies_after: _Optional[int] = ..., unnumbered: _Optional[bool] = ..., write_mode: _Optional[_Union[WriteMode, str]] = ..., replicas: _Optional[int] = ..., outputs: _Optional[_Iterable[str]] = ..., gates: _Optional[bool] = ..., constants: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., metadata: _Optional[bool] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("created", "step", "h", "epoch", "incarnation", "create_token", "store_id", "write_mode", "replicas", "window", "ring", "max_undurable", "max_timesteps", "max_message_bytes", "idle_ttl", "model", "version", "model_digest", "inputs", "outputs", "input_specs", "output_specs")
    CREATED_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    H_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    WRITE_MODE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    RING_FIELD_NUMBER: _ClassVar[int]
    MAX_UNDURABLE_FIELD_NUMBER: _ClassVar[int]
    MAX_TIMESTEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDLE_TTL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_SPECS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SPECS_FIELD_NUMBER: _ClassVar[int]
    created: bool
    step: int
    h: bytes
    epoch: int
    incarnation: bytes
    create_token: bytes
    store_id: bytes
    write_mode: WriteMode
    replicas: int
    window: int
    ring: int
    max_undurable: int
    max_timesteps: int
    max_message_bytes: int
    idle_ttl: _duration_pb2.Duration
    model: str
    version: str
    model_digest: bytes
    inputs: _containers.RepeatedScalarFieldContainer[str]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    input_specs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    output_specs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    def __init__(self, created: _Optional[bool] = ..., step: _Optional[int] = ..., h: _Optional[bytes] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[bytes] = ..., create_token: _Optional[bytes] = ..., store_id: _Optional[bytes] = ..., write_mode: _Optional[_Union[WriteMode, str]] = ..., replicas: _Optional[int] = ..., window: _Optional[int] = ..., ring: _Optional[int] = ..., max_undurable: _Optional[int] = ..., max_timesteps: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., idle_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., model_digest: _Optional[bytes] = ..., inputs: _Optional[_Iterable[str]] = ..., outputs: _Optional[_Iterable[str]] = ..., input_specs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., output_specs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ...) -> None: ...

class Timestep(_message.Message):
    __slots__ = ("step", "timesteps", "inputs", "timeout", "priority", "traceparent", "tracestate")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TIMESTEPS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    step: int
    timesteps: int
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    timeout: _duration_pb2.Duration
    priority: int
    traceparent: str
    tracestate: str
    def __init__(self, step: _Optional[int] = ..., timesteps: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., priority: _Optional[int] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("step", "h", "epoch", "durable_step", "replayed", "degraded", "timesteps", "outputs")
    STEP_FIELD_NUMBER: _ClassVar[int]
    H_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DURABLE_STEP_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    TIMESTEPS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    step: int
    h: bytes
    epoch: int
    durable_step: int
    replayed: bool
    degraded: bool
    timesteps: int
    outputs: _tensor_pb2.Outputs
    def __init__(self, step: _Optional[int] = ..., h: _Optional[bytes] = ..., epoch: _Optional[int] = ..., durable_step: _Optional[int] = ..., replayed: _Optional[bool] = ..., degraded: _Optional[bool] = ..., timesteps: _Optional[int] = ..., outputs: _Optional[_Union[_tensor_pb2.Outputs, _Mapping]] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("step", "status")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    step: int
    status: _status_pb2.Status
    def __init__(self, step: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("step", "keep")
    STEP_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    keep: bool
    def __init__(self, step: _Optional[int] = ..., keep: _Optional[bool] = ...) -> None: ...

class Closed(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: _status_pb2.Status
    def __init__(self, status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("open", "timestep", "close")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    TIMESTEP_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    timestep: Timestep
    close: Close
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., timestep: _Optional[_Union[Timestep, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("opened", "reply", "refused", "closed", "notice")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    reply: Reply
    refused: Refused
    closed: Closed
    notice: Notice
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., closed: _Optional[_Union[Closed, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("open", "timestep")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    TIMESTEP_FIELD_NUMBER: _ClassVar[int]
    open: Open
    timestep: Timestep
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., timestep: _Optional[_Union[Timestep, _Mapping]] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("opened", "reply")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    reply: Reply
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ...) -> None: ...

class HandleOpen(_message.Message):
    __slots__ = ("handle", "open")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    handle: int
    open: Open
    def __init__(self, handle: _Optional[int] = ..., open: _Optional[_Union[Open, _Mapping]] = ...) -> None: ...

class HandleOpened(_message.Message):
    __slots__ = ("handle", "opened")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    handle: int
    opened: Opened
    def __init__(self, handle: _Optional[int] = ..., opened: _Optional[_Union[Opened, _Mapping]] = ...) -> None: ...

class HandleClose(_message.Message):
    __slots__ = ("handle", "close")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    handle: int
    close: Close
    def __init__(self, handle: _Optional[int] = ..., close: _Optional[_Union[Close, _Mapping]] = ...) -> None: ...

class HandleClosed(_message.Message):
    __slots__ = ("handle", "closed")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    handle: int
    closed: Closed
    def __init__(self, handle: _Optional[int] = ..., closed: _Optional[_Union[Closed, _Mapping]] = ...) -> None: ...

class HandleRefused(_message.Message):
    __slots__ = ("handle", "step", "status", "ended")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    handle: int
    step: int
    status: _status_pb2.Status
    ended: bool
    def __init__(self, handle: _Optional[int] = ..., step: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., ended: _Optional[bool] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class TimestepColumns(_message.Message):
    __slots__ = ("handles", "steps", "timesteps", "inputs", "timeout", "priority")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TIMESTEPS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedScalarFieldContainer[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    timesteps: int
    inputs: _containers.RepeatedCompositeFieldContainer[Column]
    timeout: _duration_pb2.Duration
    priority: int
    def __init__(self, handles: _Optional[_Iterable[int]] = ..., steps: _Optional[_Iterable[int]] = ..., timesteps: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., priority: _Optional[int] = ...) -> None: ...

class ReplyColumns(_message.Message):
    __slots__ = ("handles", "steps", "h", "epochs", "durable_steps", "replayed", "degraded", "timesteps", "outputs")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    H_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    DURABLE_STEPS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    TIMESTEPS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedScalarFieldContainer[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    h: bytes
    epochs: _containers.RepeatedScalarFieldContainer[int]
    durable_steps: _containers.RepeatedScalarFieldContainer[int]
    replayed: _containers.RepeatedScalarFieldContainer[bool]
    degraded: _containers.RepeatedScalarFieldContainer[bool]
    timesteps: int
    outputs: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, handles: _Optional[_Iterable[int]] = ..., steps: _Optional[_Iterable[int]] = ..., h: _Optional[bytes] = ..., epochs: _Optional[_Iterable[int]] = ..., durable_steps: _Optional[_Iterable[int]] = ..., replayed: _Optional[_Iterable[bool]] = ..., degraded: _Optional[_Iterable[bool]] = ..., timesteps: _Optional[int] = ..., outputs: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class StreamManyRequest(_message.Message):
    __slots__ = ("opens", "timesteps", "closes", "traceparent", "tracestate")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    TIMESTEPS_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[HandleOpen]
    timesteps: _containers.RepeatedCompositeFieldContainer[TimestepColumns]
    closes: _containers.RepeatedCompositeFieldContainer[HandleClose]
    traceparent: str
    tracestate: str
    def __init__(self, opens: _Optional[_Iterable[_Union[HandleOpen, _Mapping]]] = ..., timesteps: _Optional[_Iterable[_Union[TimestepColumns, _Mapping]]] = ..., closes: _Optional[_Iterable[_Union[HandleClose, _Mapping]]] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class StreamManyResponse(_message.Message):
    __slots__ = ("opened", "replies", "refused", "closed", "notice")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    opened: _containers.RepeatedCompositeFieldContainer[HandleOpened]
    replies: _containers.RepeatedCompositeFieldContainer[ReplyColumns]
    refused: _containers.RepeatedCompositeFieldContainer[HandleRefused]
    closed: _containers.RepeatedCompositeFieldContainer[HandleClosed]
    notice: Notice
    def __init__(self, opened: _Optional[_Iterable[_Union[HandleOpened, _Mapping]]] = ..., replies: _Optional[_Iterable[_Union[ReplyColumns, _Mapping]]] = ..., refused: _Optional[_Iterable[_Union[HandleRefused, _Mapping]]] = ..., closed: _Optional[_Iterable[_Union[HandleClosed, _Mapping]]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ...) -> None: ...
