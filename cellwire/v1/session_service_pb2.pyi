import datetime

from cellwire.v1 import resume_pb2 as _resume_pb2
from cellwire.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Session(_message.Message):
    __slots__ = ("session_id", "step", "h", "epoch", "incarnation", "model", "version", "closed", "unnumbered", "lease", "expires_in", "updated", "state_bytes")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    H_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    UNNUMBERED_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    step: int
    h: bytes
    epoch: int
    incarnation: bytes
    model: str
    version: str
    closed: bool
    unnumbered: bool
    lease: _duration_pb2.Duration
    expires_in: _duration_pb2.Duration
    updated: _timestamp_pb2.Timestamp
    state_bytes: int
    def __init__(self, session_id: _Optional[str] = ..., step: _Optional[int] = ..., h: _Optional[bytes] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., closed: _Optional[bool] = ..., unnumbered: _Optional[bool] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., expires_in: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., updated: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state_bytes: _Optional[int] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    next_page_token: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id", "create_token", "step")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    create_token: bytes
    step: int
    def __init__(self, session_id: _Optional[str] = ..., create_token: _Optional[bytes] = ..., step: _Optional[int] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class ForkSessionRequest(_message.Message):
    __slots__ = ("session_id", "new_session_id", "create_token", "step")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NEW_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    new_session_id: str
    create_token: bytes
    step: int
    def __init__(self, session_id: _Optional[str] = ..., new_session_id: _Optional[str] = ..., create_token: _Optional[bytes] = ..., step: _Optional[int] = ...) -> None: ...

class ForkSessionResponse(_message.Message):
    __slots__ = ("session", "create_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: Session
    create_token: bytes
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., create_token: _Optional[bytes] = ...) -> None: ...

class RewindSessionRequest(_message.Message):
    __slots__ = ("session_id", "create_token", "step")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    create_token: bytes
    step: int
    def __init__(self, session_id: _Optional[str] = ..., create_token: _Optional[bytes] = ..., step: _Optional[int] = ...) -> None: ...

class RewindSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ExportSessionRequest(_message.Message):
    __slots__ = ("session_id", "create_token")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    create_token: bytes
    def __init__(self, session_id: _Optional[str] = ..., create_token: _Optional[bytes] = ...) -> None: ...

class ExportSessionResponse(_message.Message):
    __slots__ = ("session", "checkpoint", "state")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    session: Session
    checkpoint: _resume_pb2.Checkpoint
    state: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., checkpoint: _Optional[_Union[_resume_pb2.Checkpoint, _Mapping]] = ..., state: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ...) -> None: ...

class ImportSessionRequest(_message.Message):
    __slots__ = ("session_id", "create_token", "model", "version", "state")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    create_token: bytes
    model: str
    version: str
    state: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    def __init__(self, session_id: _Optional[str] = ..., create_token: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ...) -> None: ...

class ImportSessionResponse(_message.Message):
    __slots__ = ("session", "create_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: Session
    create_token: bytes
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., create_token: _Optional[bytes] = ...) -> None: ...
