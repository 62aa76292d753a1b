"""A connection that speaks gRPC over HTTP/2 with as little work a message as Python allows.

A benchmark's client must not be what is measured: `grpc.aio` costs a client as much a message as it costs a server.
Here messages that are answered while one read is worked off leave in one write, headers are encoded once a connection,
and replies are cut out of their frames, no more. Keeps to RFC 9113 in what servers ask for: settings, pings, flow
control.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Self, TypeVar, cast

from hpack import Decoder, Encoder

Headers = dict[str, str]
Key = TypeVar("Key")
Value = TypeVar("Value")

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 4, 5
_DEFAULT_WINDOW, _LARGEST_WINDOW = 65_535, 2**31 - 1
_REFILL = 2**30
"""Bytes received, after which the peer may send as many again."""
_FRAME = struct.Struct(">HBBBL")
"""Length in 16 and 8 bits, type, flags, stream."""
_PREFIX = struct.Struct(">BL")
"""gRPC's: compressed or not, length."""


class CallFailed(Exception):
    """A call ended that was not to end, or with another status than OK; the text says how."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return _FRAME.pack(len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


class Call:
    """One call on a connection: `on_message` gets each message, `on_end` the trailers when it has ended well."""

    def __init__(
        self, connection: "Connection", number: int, on_message: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        self._connection = connection
        self.number = number
        self.on_message = on_message
        self.on_end = on_end
        self.window = connection.peer_window
        """Bytes that may still be sent."""
        self.received = 0
        """Bytes since the last refill."""
        self._rest = b""

    def send(self, message: bytes, *, last: bool = False) -> None:
        """Sends a message; `last`: and no other behind it."""
        self._connection.send(self, _PREFIX.pack(0, len(message)) + message, last)

    def finish(self) -> None:
        """No message comes any more."""
        self._connection.send(self, b"", True)

    def take(self, data: bytes) -> None:
        """Cuts messages out of what came."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= _PREFIX.size:
            stop = at + _PREFIX.size + _PREFIX.unpack_from(data, at)[1]
            if stop > end:
                break
            self.on_message(data[at + _PREFIX.size : stop])
            at = stop
        self._rest = data[at:] if at < end else b""


class Connection(asyncio.Protocol):
    """One connection; made by `connect`. `on_failure` gets what ends it, or a call on it, against the rules."""

    def __init__(self, target: str, on_failure: Callable[[Exception], None]) -> None:
        self._authority = target
        self._on_failure = on_failure
        self._encoder, self._decoder = Encoder(), Decoder()
        self._sent_headers: dict[str, bytes] = {}
        self._seen_headers: dict[bytes, Headers] = {}
        self._calls: dict[int, Call] = {}
        self._next = 1
        self._window = _DEFAULT_WINDOW
        self.peer_window = _DEFAULT_WINDOW
        """With which a call begins."""
        self._max_frame = 16_384
        self._received = 0
        self._rest = b""
        self._out: list[bytes] = []
        self._waiting: deque[tuple[Call, bytes, bool]] = deque()
        """What flow control holds back."""
        self._reading = self._flush_due = False
        self._closing = False

    @classmethod
    async def connect(cls, target: str, on_failure: Callable[[Exception], None]) -> Self:
        """A connection to host:port."""
        host, _, port = target.rpartition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(target, on_failure), host, int(port))
        return connection

    def call(self, path: str, on_message: Callable[[bytes], None], on_end: Callable[[], None]) -> Call:
        """Begins a call of the method at `path`."""
        call = self._calls[self._next] = Call(self, self._next, on_message, on_end)
        self._next += 2
        self._write(frame(_HEADERS, _END_HEADERS, call.number, self._request_headers(path)))
        return call

    def send(self, call: Call, body: bytes, last: bool) -> None:
        """Sends a call's bytes, in order, as far as flow control lets them."""
        size = len(body)
        if size <= self._max_frame and size <= self._window and size <= call.window and not self._waiting:
            self._window -= size
            call.window -= size
            self._write(_FRAME.pack(size >> 8, size & 255, _DATA, _END_STREAM if last else 0, call.number) + body)
        else:
            self._waiting.append((call, body, last))
            self._send_waiting()

    def close(self) -> None:
        """Closes the connection; what is under way is not reported."""
        self._closing = True
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says how much this side takes: all."""
        self._transport = cast(asyncio.Transport, transport)
        settings = struct.pack(">HL", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        refill = struct.pack(">L", _LARGEST_WINDOW - _DEFAULT_WINDOW)
        self._transport.write(_PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW_UPDATE, 0, 0, refill))

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody closes but this side."""
        if not self._closing:
            self._on_failure(CallFailed(f"the connection was lost: {exc}"))

    def data_received(self, data: bytes) -> None:
        """Works off all whole frames; what they cause to be sent leaves in one write."""
        self._reading = True
        try:
            self._take_frames(self._rest + data if self._rest else data)
        except Exception as error:  # else the loop would log it and close the connection
            self._on_failure(error)
        self._reading = False
        self._flush()

    def _take_frames(self, data: bytes) -> None:
        at, end = 0, len(data)
        while end - at >= _FRAME.size:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            start = at + _FRAME.size
            stop = start + (high << 8 | low)
            if stop > end:
                break
            if kind == _DATA:
                self._take_data(stream, data[start:stop])
            else:
                self._take_other(kind, flags, stream, data[start:stop])
            at = stop
        self._rest = data[at:] if at < end else b""

    def _take_data(self, stream: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received > _REFILL:
            self._write(frame(_WINDOW_UPDATE, 0, 0, struct.pack(">L", self._received)))
            self._received = 0
        if call := self._calls.get(stream):
            call.received += len(payload)
            if call.received > _REFILL:
                self._write(frame(_WINDOW_UPDATE, 0, stream, struct.pack(">L", call.received)))
                call.received = 0
            call.take(payload)

    def _take_other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            headers = self._headers(payload)
            if flags & _END_STREAM and (call := self._calls.pop(stream, None)):
                status = headers.get("grpc-status")
                if status == "0":
                    call.on_end()
                else:
                    self._on_failure(CallFailed(f"status {status}: {headers.get('grpc-message', '')}"))
        elif kind == _WINDOW_UPDATE:
            more = int.from_bytes(payload)
            if not stream:
                self._window += more
            elif call := self._calls.get(stream):
                call.window += more
            self._send_waiting()
        elif kind == _PING and not flags & _ACK:
            self._write(frame(_PING, _ACK, 0, payload))
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(struct.iter_unpack(">HL", payload))
            self._write(frame(_SETTINGS, _ACK, 0))
        elif kind == _RST_STREAM and self._calls.pop(stream, None) is not None:
            self._on_failure(CallFailed(f"reset with code {int.from_bytes(payload)}"))
        elif kind == _GOAWAY and self._calls:
            self._on_failure(CallFailed(f"the server goes: {payload[8:].decode(errors='replace')}"))

    def _take_settings(self, settings: Iterable[tuple[int, ...]]) -> None:
        for name, value in settings:
            if name == _INITIAL_WINDOW_SIZE:
                for call in self._calls.values():
                    call.window += value - self.peer_window
                self.peer_window = value
            elif name == _MAX_FRAME_SIZE:
                self._max_frame = value
        self._send_waiting()

    def _request_headers(self, path: str) -> bytes:
        block = self._sent_headers.get(path)
        if block is None:
            headers = {
                ":method": "POST",
                ":scheme": "http",
                ":path": path,
                ":authority": self._authority,
                "te": "trailers",
                "content-type": "application/grpc",
                "user-agent": "benchmarks",
            }
            block = self._encoder.encode(headers.items())
            _remember(self._sent_headers, path, block, block)
        return block

    def _headers(self, block: bytes) -> Headers:
        headers = self._seen_headers.get(block)
        if headers is None:
            headers = {str(name): str(value) for name, value in self._decoder.decode(block)}
            _remember(self._seen_headers, block, headers, block)
        return headers

    def _send_waiting(self) -> None:
        while self._waiting:
            call, body, last = self._waiting[0]
            size = min(len(body), self._max_frame, self._window, call.window)
            if size <= 0 and body:
                return
            if call.number not in self._calls:
                self._waiting.popleft()
                continue
            self._window -= size
            call.window -= size
            whole = size == len(body)
            self._write(frame(_DATA, _END_STREAM if last and whole else 0, call.number, body[:size]))
            if whole:
                self._waiting.popleft()
            else:
                self._waiting[0] = (call, body[size:], last)

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        if not self._reading and not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()


def _remember(known: dict[Key, Value], key: Key, value: Value, block: bytes) -> None:
    """Keeps what a block of headers means as long as the table that it refers to stays as it is."""
    if all(0x80 <= byte < 0xFF for byte in block):  # each byte is an entry of the table
        known[key] = value
    else:
        known.clear()
