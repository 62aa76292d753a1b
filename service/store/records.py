"""What is stored of a session, as bytes: the state blob, the ring records, the open options.

The readers treat every byte as hostile: they either return what was written or raise StateCorrupt, CodecTooNew, or,
for a ring record, nothing (a lost reply is not a lost state). No pickle. Knows no Redis.
"""

import json
import struct
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple
from zlib import crc32

from service.errors import CodecTooNew, StateCorrupt
from service.values import ModelSpec, Row

CODEC_VERSION = 1
_STATE_HEAD = struct.Struct("<2sBB16s")
_CRC = struct.Struct("<I")
_RECORD_HEAD = struct.Struct("<QQ16s16sI")
_pack_crc, _pack_record = _CRC.pack, _RECORD_HEAD.pack


def encode_state(spec: ModelSpec, state: bytes) -> bytes:
    """Magic, codec version, number of tensors, model digest, the raw tensors, CRC-32 of all before."""
    head, checked = _state_head(len(spec.state), spec.digest)
    return b"".join((head, state, _pack_crc(crc32(state, checked))))


@cache
def _state_head(tensors: int, digest: bytes) -> tuple[bytes, int]:
    """What stands before the tensors of a model, and its CRC-32."""
    head = _STATE_HEAD.pack(b"CW", CODEC_VERSION, tensors, digest)
    return head, crc32(head)


def decode_state(spec: ModelSpec, blob: bytes) -> bytes:
    """The raw tensors of a state blob of this model.

    Raises:
        StateCorrupt: it is not one, or not one of this model.
        CodecTooNew: a newer release wrote it.
    """
    if len(blob) < _STATE_HEAD.size + _CRC.size or blob[:2] != b"CW":
        raise StateCorrupt("the stored state is not a state of Cellwire")
    _, version, tensors, digest = _STATE_HEAD.unpack_from(blob)
    if version > CODEC_VERSION:
        raise CodecTooNew(f"the stored state has format {version}, this release reads up to {CODEC_VERSION}")
    if _CRC.unpack_from(blob, len(blob) - _CRC.size)[0] != crc32(blob[: -_CRC.size]):
        raise StateCorrupt("the stored state is damaged")
    state = blob[_STATE_HEAD.size : -_CRC.size]
    if (tensors, digest, len(state)) != (len(spec.state), spec.digest, spec.state_bytes):
        raise StateCorrupt("the stored state is not one of this model")
    return state


class Record(NamedTuple):
    """A committed message: its span, the digests around it, and the stored reply."""

    first: int
    last: int
    h_before: bytes
    h_after: bytes
    timesteps: int
    """As the client gave it: 0 is one timestep without a leading axis."""
    outputs: bytes
    """A serialized cellwire.v1.Outputs."""


def encode_record(record: Record) -> bytes:
    """Span, digests, timesteps, outputs, CRC-32 of all before. claim.lua reads the first 48 bytes."""
    first, last, h_before, h_after, timesteps, outputs = record
    body = _pack_record(first, last, h_before, h_after, timesteps) + outputs
    return body + _pack_crc(crc32(body))


def decode_record(body: bytes) -> Record | None:
    """The record, or None where it is damaged: its reply is lost, the state is not."""
    if len(body) < _RECORD_HEAD.size + _CRC.size:
        return None
    if _CRC.unpack_from(body, len(body) - _CRC.size)[0] != crc32(body[: -_CRC.size]):
        return None
    first, last, h_before, h_after, timesteps = _RECORD_HEAD.unpack_from(body)
    if not 0 < first <= last:
        return None
    return Record(first, last, h_before, h_after, timesteps, body[_RECORD_HEAD.size : -_CRC.size])


@dataclass(frozen=True, slots=True)
class Options:
    """What was chosen when the session was created, and its constant inputs."""

    outputs: tuple[str, ...]
    """Names of the outputs and gates that are sent, in the model's order."""
    constants: Row


def encode_options(options: Options) -> bytes:
    """A line of JSON, then the raw constants in the model's order."""
    head = json.dumps({"outputs": options.outputs}, separators=(",", ":"), sort_keys=True)
    return head.encode() + b"\n" + b"".join(options.constants)


def decode_options(spec: ModelSpec, blob: bytes) -> Options:
    """The options of a session of this model.

    Raises:
        StateCorrupt: they are not of this model.
    """
    head, _, raw = blob.partition(b"\n")
    known = [tensor.name for tensor in (*spec.outputs, *spec.gates)]
    try:
        outputs = json.loads(head)["outputs"]
        if not outputs or outputs != [name for name in known if name in outputs]:
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise StateCorrupt("the stored open options cannot be read") from None
    if len(raw) != sum(tensor.nbytes for tensor in spec.constants):
        raise StateCorrupt("the stored constants are not those of this model")
    constants = []
    for tensor in spec.constants:
        constants.append(raw[: tensor.nbytes])
        raw = raw[tensor.nbytes :]
    return Options(tuple(outputs), tuple(constants))
