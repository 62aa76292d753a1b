"""How a session's messages reach a replica and come back: on a stream of its own, or shared with other sessions."""

import asyncio
import random
from contextlib import suppress
from typing import Any, Protocol

import grpc.aio

from cellwire.errors import Disconnected, from_rpc
from cellwire.targets import Target
from cellwire.v1.cell_service_pb2 import StreamRequest, StreamResponse


class Call(Protocol):
    """One session on one replica, from its open on: what `Stream` promises."""

    async def write(self, request: StreamRequest) -> None:
        """Send, unless the stream has ended: the reader learns why."""

    async def read(self) -> StreamResponse:
        """The next message; its end is always an error. Raises CellwireError."""

    async def leave(self) -> None:
        """Whatever is unanswered, this session is no longer served here."""


class Dialling(Protocol):
    """How the calls of a session are made."""

    def first_turn(self, num_targets: int) -> int:
        """Which replica is asked first."""

    def dial(self, target: Target) -> Call:
        """A new call."""


class OwnStreams:
    """Each call is a stream of its own, so sessions are spread over the replicas."""

    def first_turn(self, num_targets: int) -> int:
        """Any."""
        return random.randrange(num_targets)  # noqa: S311

    def dial(self, target: Target) -> "OwnStream":
        """A new stream."""
        return OwnStream(target)


class OwnStream:
    """A stream of one session."""

    def __init__(self, target: Target) -> None:
        self._call: Any = target.cells.Stream()  # grpcio has no types
        # When a write meets the end of the stream, only an iterator still gives what the server had sent before, and
        # its status; `call.read` fails with a status made here, and a superseded client would resume against its rival.
        self._responses: Any = aiter(self._call)

    async def write(self, request: StreamRequest) -> None:
        """Send, unless the stream has ended."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.write(request)

    async def read(self) -> StreamResponse:
        """The next message."""
        try:
            response: StreamResponse = await anext(self._responses)
        except StopAsyncIteration:
            raise Disconnected("a replica ended the stream without a word") from None
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error.code(), error.details(), tuple(error.trailing_metadata() or ())) from None
        return response

    async def leave(self) -> None:
        """Ends the stream."""
        self._call.cancel()
        await self._responses.aclose()
