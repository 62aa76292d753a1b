"""Streams of many sessions: one to each replica that holds some, and the call that each session has on it.

What is written in the same moment travels together, and what comes in is given to the calls one by one. Numbers, order
and retries are `cellwire.line`'s; nothing here knows what was answered.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import grpc.aio

from cellwire.columns import Written, pack, unpack
from cellwire.errors import CellwireError, Disconnected, InvalidInput, from_rpc, from_status
from cellwire.targets import Target
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1.cell_service_pb2 import StreamRequest, StreamResponse

_SMALL_BYTES = 60_000
"""Of a message: every replica takes so many, whatever it tells in Opened."""


class SharedStreams:
    """All sessions ask the same replica first, so that they share its stream; from there each moves on by itself."""

    def __init__(self) -> None:
        self._turn: int | None = None
        self._trunks: dict[str, Trunk] = {}
        """By address."""
        self._lives: set[asyncio.Task[None]] = set()
        """Of these and of those before them."""

    def first_turn(self, num_targets: int) -> int:
        """Any, but the same for all."""
        if self._turn is None:
            self._turn = random.randrange(num_targets)  # noqa: S311
        return self._turn

    def dial(self, target: Target) -> "SharedCall":
        """A call on the stream to this replica, which is begun if there is none."""
        trunk = self._trunks.get(target.address)
        if trunk is None or trunk.is_over:
            trunk = self._trunks[target.address] = Trunk(target)
            self._lives.add(trunk.life)
            trunk.life.add_done_callback(self._lives.discard)
        return trunk.call()

    async def end(self) -> None:
        """Ends every stream. Sessions should be left before."""
        for life in self._lives:
            life.cancel()
        if self._lives:
            await asyncio.wait(self._lives)


class Trunk:
    """One stream, from its first call until it breaks or the last call has left."""

    def __init__(self, target: Target) -> None:
        self.is_over = False
        """No call can be made on it any more."""
        self.max_bytes = _SMALL_BYTES
        """Of a message."""
        self._address = target.address
        self._calls: dict[int, SharedCall] = {}
        self._last_handle = 0
        self._unsent: list[Written] = []
        self._more = asyncio.Event()
        self.life = asyncio.create_task(self._live(target), name=f"cellwire trunk {target.address}")

    def call(self) -> "SharedCall":
        """For one session more, under a handle of its own."""
        self._last_handle += 1
        call = self._calls[self._last_handle] = SharedCall(self, self._last_handle)
        return call

    def put(self, message: Written) -> None:
        """Goes out with everything else that is put meanwhile."""
        self._unsent.append(message)
        self._more.set()

    def remove(self, handle: int) -> bool:
        """The call has left: nothing is given to it any more. False if it had already."""
        was_here = self._calls.pop(handle, None) is not None
        if not self._calls:
            self.is_over = True
            self.life.cancel()
        return was_here

    async def _live(self, target: Target) -> None:
        call: Any = target.cells.StreamMany()  # grpcio has no types
        sender = asyncio.create_task(self._send(call))
        why: Callable[[], CellwireError] = partial(Disconnected, "a replica ended the stream without a word")
        try:
            async for response in call:
                self._take(response)
        except grpc.aio.AioRpcError as error:
            why = partial(from_rpc, error.code(), error.details(), tuple(error.trailing_metadata() or ()))
        except ValueError:
            why = partial(Disconnected, "a replica sent columns that do not fit their handles")
        finally:
            self.is_over = True
            call.cancel()
            sender.cancel()
            for each in self._calls.values():
                each.take(why())
            await asyncio.wait({sender})

    async def _send(self, call: Any) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            unsent, self._unsent = self._unsent, []
            for message in pack(unsent, self.max_bytes):
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # who reads learns why
                    await call.write(message)

    def _take(self, response: pb.StreamManyResponse) -> None:
        for opened in response.opened:
            self.max_bytes = max(_SMALL_BYTES, opened.opened.max_message_bytes)
            self._give(opened.handle, StreamResponse(opened=opened.opened))
        for columns in response.replies:
            for handle, reply in unpack(columns):
                self._give(handle, StreamResponse(reply=reply))
        for refused in response.refused:
            if refused.ended:
                self._give(refused.handle, from_status(refused.status))
            else:
                told = pb.Refused(step=refused.step, status=refused.status)
                self._give(refused.handle, StreamResponse(refused=told))
        for closed in response.closed:
            self._give(closed.handle, StreamResponse(closed=closed.closed))
        if response.HasField("notice"):
            self.is_over = True
            for call in self._calls.values():
                call.take(from_status(response.notice.status))

    def _give(self, handle: int, told: StreamResponse | CellwireError) -> None:
        if handle in self._calls:
            self._calls[handle].take(told)


class SharedCall:
    """One session on a stream of many."""

    def __init__(self, trunk: Trunk, handle: int) -> None:
        self._trunk = trunk
        self._handle = handle
        self._told: asyncio.Queue[StreamResponse | CellwireError] = asyncio.Queue()
        self._model = ("", "")
        self._inputs: tuple[str, ...] = ()
        self._has_ended = False
        """For the replica; there is nothing to close."""

    def take(self, told: StreamResponse | CellwireError) -> None:
        """What the replica says to this session, or why it says nothing more."""
        if isinstance(told, CellwireError) or told.HasField("closed"):
            self._has_ended = True
        elif told.HasField("opened"):
            self._model = (told.opened.model, told.opened.version)
            self._inputs = tuple(told.opened.inputs)
        self._told.put_nowait(told)

    async def write(self, request: StreamRequest) -> None:
        """Send, unless the stream has ended."""
        if request.ByteSize() > self._trunk.max_bytes and request.HasField("timestep"):
            # the replica would end the stream of all for it
            self._told.put_nowait(InvalidInput(f"a message has at most {self._trunk.max_bytes} bytes"))
        elif not self._has_ended:
            step = request.timestep.step
            self._trunk.put(Written(self._handle, request, step, self._model, self._inputs))

    async def read(self) -> StreamResponse:
        """The next message."""
        told = await self._told.get()
        if isinstance(told, CellwireError):
            raise told
        return told

    async def leave(self) -> None:
        """Gives the handle up; its session stays."""
        if self._trunk.remove(self._handle) and not self._has_ended:
            self._trunk.put(Written(self._handle, StreamRequest(close=pb.Close(keep=True))))
