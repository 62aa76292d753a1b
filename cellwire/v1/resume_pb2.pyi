from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Checkpoint(_message.Message):
    __slots__ = ("step", "h")
    STEP_FIELD_NUMBER: _ClassVar[int]
    H_FIELD_NUMBER: _ClassVar[int]
    step: int
    h: bytes
    def __init__(self, step: _Optional[int] = ..., h: _Optional[bytes] = ...) -> None: ...

class ResumePoint(_message.Message):
    __slots__ = ("received", "durable_step", "store_id", "incarnation", "undurable")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DURABLE_STEP_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    UNDURABLE_FIELD_NUMBER: _ClassVar[int]
    received: Checkpoint
    durable_step: int
    store_id: bytes
    incarnation: bytes
    undurable: _containers.RepeatedCompositeFieldContainer[Checkpoint]
    def __init__(self, received: _Optional[_Union[Checkpoint, _Mapping]] = ..., durable_step: _Optional[int] = ..., store_id: _Optional[bytes] = ..., incarnation: _Optional[bytes] = ..., undurable: _Optional[_Iterable[_Union[Checkpoint, _Mapping]]] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("step", "h", "epoch", "incarnation", "store_id")
    STEP_FIELD_NUMBER: _ClassVar[int]
    H_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    step: int
    h: bytes
    epoch: int
    incarnation: bytes
    store_id: bytes
    def __init__(self, step: _Optional[int] = ..., h: _Optional[bytes] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[bytes] = ..., store_id: _Optional[bytes] = ...) -> None: ...
