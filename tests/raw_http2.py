"""An HTTP/2 client that keeps to no rule: it sends the frames that it is told to and shows what comes back."""

import asyncio
import secrets
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES = 16_384
"""What every server takes."""
PATIENCE = 20.0
"""Seconds until an answer that does not come has failed the test."""
Header = tuple[str, str]
STEP = "/cellwire.v1.CellService/Step"


def request_headers(path: str = STEP, more: Iterable[Header] = (), **instead: str | None) -> list[Header]:
    """Those of a gRPC call; `instead` has other values by name (`content_type`, `scheme`), None: without it."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "test",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    for name, value in instead.items():
        known = name.replace("_", "-")
        known = f":{known}" if f":{known}" in headers else known
        if value is None:
            del headers[known]
        else:
            headers[known] = value
    return [*headers.items(), *more]


def grpc_message(body: bytes, compressed: int = 0, length: int | None = None) -> bytes:
    """A message with gRPC's prefix; `length` may lie."""
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    reset: int | None = None
    """The code of RST_STREAM."""

    @property
    def status(self) -> str | None:
        """Of gRPC."""
        return self.headers.get("grpc-status")

    def text(self) -> str:
        """All that a client can read."""
        return f"{self.headers} {self.data!r}"


class Closed(Exception):
    """The server closed the connection; with the code and the text of its GOAWAY, if it sent one."""

    def __init__(self, code: int | None, text: bytes) -> None:
        super().__init__(f"{code} {text!r}")
        self.code = code
        self.text = text


class RawConnection:
    """One connection. Frames from the server are read only while an answer is waited for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._polite = False
        """Answers the server's control frames; a connection without a preface is silent."""
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._goaway: tuple[int | None, bytes] = (None, b"")
        self.answers: dict[int, Answer] = {}
        self._done: set[int] = set()
        self.seen: list[Frame] = []

    @classmethod
    async def connect(cls, target: str, settings: dict[int, int] | None = None, preface: bool = True) -> Self:
        """Opens it, and agrees with the server on both sides' settings; without the preface it says nothing."""
        host, port = target.rsplit(":", 1)
        connection = cls(*await asyncio.open_connection(host, int(port)))
        if preface:
            connection._polite = True
            connection.write(PREFACE + SettingsFrame(0, settings=settings or {}).serialize())
            while not any(isinstance(frame, SettingsFrame) for frame in connection.seen):
                await connection.read()
            await connection.ping()
        return connection

    async def ping(self) -> None:
        """Returns once the server has taken all that was sent before."""
        mark = secrets.token_bytes(8)
        self.frame(PingFrame(0, opaque_data=mark))
        while True:
            frame = await self.read()
            if isinstance(frame, PingFrame) and frame.opaque_data == mark:
                return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """At once."""
        self._writer.transport.abort()

    def write(self, raw: bytes) -> None:
        """Bytes as they are."""
        self._writer.write(raw)

    async def drain(self) -> None:
        """Waits until what was written is on its way; ConnectionError when the server closed."""
        await asyncio.wait_for(self._writer.drain(), PATIENCE)

    def frame(self, frame: Frame) -> None:
        """A frame as it is."""
        self.write(frame.serialize())

    def block(self, headers: Sequence[Header]) -> bytes:
        """Headers as HPACK has them, without an entry in its table, so that blocks may be sent again."""
        return self._encoder.encode([(name, value, True) for name, value in headers])

    def headers(self, stream: int, headers: Sequence[Header], end: bool = False) -> None:
        """HEADERS of one stream, and CONTINUATION where they need it."""
        block = self.block(headers)
        parts = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
        frames: list[HeadersFrame | ContinuationFrame] = [
            HeadersFrame(stream, parts[0], flags=["END_STREAM"] if end else [])
        ]
        frames += [ContinuationFrame(stream, part) for part in parts[1:]]
        frames[-1].flags.add("END_HEADERS")
        for frame in frames:
            self.frame(frame)

    def data(self, stream: int, data: bytes, end: bool = False) -> None:
        """DATA of one stream."""
        parts = [data[at : at + FRAME_BYTES] for at in range(0, len(data), FRAME_BYTES)] or [b""]
        for part in parts:
            last = end and part is parts[-1]
            self.frame(DataFrame(stream, part, flags=["END_STREAM"] if last else []))

    def call(self, stream: int, headers: Sequence[Header], data: bytes) -> None:
        """A whole request."""
        self.headers(stream, headers)
        self.data(stream, data, end=True)

    async def answer(self, stream: int) -> Answer:
        """What one stream is answered, once it is over.

        Raises:
            Closed: the connection was closed before.
        """
        while stream not in self._done:
            await self.read()
        return self.answers[stream]

    async def closed(self) -> Closed:
        """Waits until the server has closed the connection."""
        try:
            while True:
                await self.read()
        except Closed as closed:
            return closed

    async def read(self) -> Frame:
        """The next frame of the server; the control frames are answered as they must be."""
        try:
            async with asyncio.timeout(PATIENCE):
                head = await self._reader.readexactly(9)
                frame, length = Frame.parse_frame_header(memoryview(head))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Closed(*self._goaway) from None
        self._take(frame)
        return frame

    def _take(self, frame: Frame) -> None:
        self.seen.append(frame)
        if isinstance(frame, GoAwayFrame):
            self._goaway = (frame.error_code, frame.additional_data)
        answer = self.answers.setdefault(frame.stream_id, Answer())
        match frame:
            case SettingsFrame() if self._polite and "ACK" not in frame.flags:
                self.frame(SettingsFrame(0, flags=["ACK"]))
            case PingFrame() if self._polite and "ACK" not in frame.flags:
                self.frame(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]))
            case RstStreamFrame():
                answer.reset = frame.error_code
                self._done.add(frame.stream_id)
            case HeadersFrame():
                answer.headers |= {str(name): str(value) for name, value in self._decoder.decode(frame.data)}
            case DataFrame():
                answer.data += frame.data
                self.frame(WindowUpdateFrame(0, window_increment=frame.flow_controlled_length or 1))
        if "END_STREAM" in frame.flags:
            self._done.add(frame.stream_id)
