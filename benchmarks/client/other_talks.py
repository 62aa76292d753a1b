"""Talks with what Cellwire is measured against."""

import struct
from collections.abc import Callable

from benchmarks.client.cellwire_talks import CellwireMany, CellwireStream, CellwireUnary
from benchmarks.client.protobuf import field, varint
from benchmarks.client.talk import Shape, Talk, WrongAnswer

ECHO, NAIVE, RAY = "/benchmarks.Echo/Stream", "/benchmarks.Naive/Stream", "/benchmarks.Cell/step"
V2 = "/inference.GRPCInferenceService"


class Echo(Talk):
    """The bare transport: messages as long as Cellwire's, answered with as many bytes as its replies have."""

    path, unary = ECHO, False

    def __init__(self, name: str, shape: Shape, reply_bytes: int) -> None:
        self._bytes = CellwireStream(name, shape).message(1000)
        self._reply_bytes = reply_bytes

    def opening(self) -> bytes | None:
        return str(self._reply_bytes).encode()

    def opened(self, answer: bytes) -> bool:
        return self.complete(answer, 0) == 1

    def message(self, number: int) -> bytes:
        return self._bytes

    def complete(self, answer: bytes, number: int) -> int | None:
        if len(answer) != self._reply_bytes:
            raise WrongAnswer("an echo of another length")
        return 1

    def closing(self, number: int) -> bytes | None:
        return self._bytes


class Naive(Talk):
    """A handwritten server: the session's name first, then bare float32 in and out."""

    path, unary = NAIVE, False

    def __init__(self, name: str, shape: Shape) -> None:
        self._name = name.encode()
        self._row = b"".join(shape.rows())
        self._reply_bytes = 4 * shape.outputs

    def opening(self) -> bytes | None:
        return self._name

    def message(self, number: int) -> bytes:
        return self._row

    def complete(self, answer: bytes, number: int) -> int | None:
        if len(answer) != self._reply_bytes:
            raise WrongAnswer("outputs of another length")
        return 1


class V2Unary(Talk):
    """The inference protocol of KServe, a sequence each, one call a timestep, raw contents."""

    path, unary = f"{V2}/ModelInfer", True

    def __init__(self, name: str, shape: Shape) -> None:
        sequence = int(name.rpartition("-")[2]) + 1
        inputs = b"".join(
            field(5, field(1, title.encode()) + field(2, b"FP32") + field(3, b"".join(map(varint, (1, *dims)))))
            for title, dims in shape.inputs
        )
        raw = b"".join(field(7, row) for row in shape.rows())
        begin, self._next = (
            b"".join(
                (
                    field(1, shape.model.encode()),
                    _parameter("sequence_id", field(2, sequence)),
                    _parameter("sequence_start", field(1, start)),
                    inputs,
                    raw,
                )
            )
            for start in (1, 0)
        )
        self._begin = begin
        self._reply_bytes = 4 * shape.outputs

    def message(self, number: int) -> bytes:
        return self._next if number > 1 else self._begin

    def complete(self, answer: bytes, number: int) -> int | None:
        if len(answer) < self._reply_bytes:
            raise WrongAnswer("no outputs")
        return 1


class V2Stream(V2Unary):
    """Triton's stream of the same messages."""

    path, unary = f"{V2}/ModelStreamInfer", False

    def complete(self, answer: bytes, number: int) -> int | None:
        if answer[:1] != b"\x12":  # infer_response, without the error message that is field 1
            raise WrongAnswer(answer[2:200].decode(errors="replace"))
        return 1


class RayUnary(Talk):
    """A deployment of Ray Serve: the session's number and bare float32 in a BytesValue."""

    path, unary = RAY, True

    def __init__(self, name: str, shape: Shape) -> None:
        self._message = field(1, struct.pack("<q", int(name.rpartition("-")[2])) + b"".join(shape.rows()))
        self._reply_bytes = len(field(1, bytes(4 * shape.outputs)))

    def message(self, number: int) -> bytes:
        return self._message

    def complete(self, answer: bytes, number: int) -> int | None:
        if len(answer) != self._reply_bytes:
            raise WrongAnswer("outputs of another length")
        return 1


def _parameter(name: str, value: bytes) -> bytes:
    """An entry of the map of parameters."""
    return field(4, field(1, name.encode()) + field(2, value))


def talks(dialect: str, shape: Shape, reply_bytes: int) -> Callable[[str], Talk]:
    """What makes the talks of a dialect from the names of their sessions, each of which ends in a number."""
    kinds: dict[str, Callable[[str], Talk]] = {
        "cellwire": lambda name: CellwireStream(name, shape),
        "cellwire_unary": lambda name: CellwireUnary(name, shape),
        "cellwire_many": lambda name: CellwireMany(name, shape),
        "echo": lambda name: Echo(name, shape, reply_bytes),
        "naive": lambda name: Naive(name, shape),
        "v2_stream": lambda name: V2Stream(name, shape),
        "v2_unary": lambda name: V2Unary(name, shape),
        "ray": lambda name: RayUnary(name, shape),
    }
    return kinds[dialect]
