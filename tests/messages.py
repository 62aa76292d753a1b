"""Hypothesis strategies of what a client may send: messages of a type with any values, and valid bytes gone wrong."""

from typing import Any

from google.protobuf.message import Message
from hypothesis import strategies as st


def fields_of(kind: type[Message]) -> st.SearchStrategy[Any]:
    """Messages of a type with any values in any fields; of a status none."""
    values: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.DESCRIPTOR.fields:
        one: st.SearchStrategy[Any] | None = {
            field.TYPE_UINT64: st.integers(0, 2**64 - 1) | st.integers(0, 5),
            field.TYPE_UINT32: st.integers(0, 2**32 - 1) | st.just(0),
            field.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
            field.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
            field.TYPE_ENUM: st.integers(0, 4) | st.integers(-(2**31), 2**31 - 1),
            field.TYPE_BYTES: st.binary(max_size=20) | st.binary(min_size=16, max_size=16),
            field.TYPE_STRING: st.text(max_size=5) | st.sampled_from(["x", "s-1", "checker", "\U00010348" * 100]),
            field.TYPE_BOOL: st.booleans(),
        }.get(field.type)
        if one is None:
            inner: Any = field.message_type
            if inner.full_name == "google.rpc.Status":
                continue
            one = fields_of(inner._concrete_class)
        values[field.name] = st.lists(one, max_size=2) if field.is_repeated else one
    return st.fixed_dictionaries({}, optional=values).map(lambda chosen: kind(**chosen))


def mutations(raw: bytes) -> st.SearchStrategy[bytes]:
    """The bytes after one to three changes: some replaced, put in, taken out, said twice, or the end cut off."""
    places = st.integers(0, len(raw))
    changes = st.one_of(
        st.tuples(st.sampled_from(["replace", "insert"]), places, st.binary(min_size=1, max_size=8)),
        st.tuples(st.sampled_from(["remove", "repeat"]), places, st.integers(1, 8).map(bytes)),
        st.tuples(st.just("cut"), places, st.just(b"")),
    )
    return st.lists(changes, min_size=1, max_size=3).map(lambda chosen: _changed(raw, chosen))


def _changed(raw: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, at, data in changes:
        head, tail = raw[:at], raw[at:]
        match kind:
            case "replace":
                tail = data + tail[len(data) :]
            case "insert":
                tail = data + tail
            case "remove":
                tail = tail[len(data) :]
            case "repeat":
                tail = tail[: len(data)] + tail
            case "cut":
                tail = b""
        raw = head + tail
    return raw
