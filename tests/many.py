"""A stream of many sessions on the wire, message by message, with nothing done for the test behind its back."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
import numpy as np

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc
from service.tensors import WIRE_TYPES
from tests.harness import Fault, fault, fault_of
from tests.waiting import LONGEST


def column(array: np.ndarray) -> pb.Column:
    """An array as it goes over the wire; its first axis is the handles."""
    return pb.Column(dtype=WIRE_TYPES[array.dtype], shape=array.shape, data=np.ascontiguousarray(array).tobytes())


def columns(handles: Sequence[int], steps: Sequence[int], *inputs: np.ndarray, timesteps: int = 0) -> Any:
    """Timesteps of many sessions, their inputs in the model's order."""
    return pb.TimestepColumns(handles=handles, steps=steps, timesteps=timesteps, inputs=[column(x) for x in inputs])


def numbers(*values: int) -> np.ndarray:
    """A column of inputs of the checker model."""
    return np.array(values, np.int64).reshape(-1, 1)


class WireMany:
    """One StreamMany RPC. What was read is kept by handle, in order."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call: Any = self._begin(channel)
        self._responses = aiter(self.call)
        self.answers: dict[int, list[Any]] = defaultdict(list)
        """Opened, Reply (as on Stream, its outputs without names), HandleRefused or Closed of each handle."""
        self.messages: list[pb.StreamManyResponse] = []

    def _begin(self, channel: grpc.aio.Channel) -> Any:
        return cell_service_pb2_grpc.CellServiceStub(channel).StreamMany()

    async def send(self, **fields: Any) -> None:
        """Sends a message; whoever reads learns whether the stream had ended."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.call.write(pb.StreamManyRequest(**fields))

    async def read(self) -> pb.StreamManyResponse:
        """The next message, taken apart; grpc.aio.AioRpcError when the stream ended with an error, else EOFError."""
        try:
            response = await anext(self._responses)
        except StopAsyncIteration:
            raise EOFError from None
        assert isinstance(response, pb.StreamManyResponse)
        self.messages.append(response)
        for opened in response.opened:
            self.answers[opened.handle].append(opened.opened)
        for replies in response.replies:
            for handle, reply in taken_apart(replies):
                self.answers[handle].append(reply)
        for refused in response.refused:
            self.answers[refused.handle].append(refused)
        for closed in response.closed:
            self.answers[closed.handle].append(closed.closed)
        return response

    async def until(self, handles: Mapping[int, int]) -> None:
        """Reads until each handle has so many answers, all told."""
        async with asyncio.timeout(LONGEST):
            while any(len(self.answers[handle]) < count for handle, count in handles.items()):
                await self.read()

    async def answer(self, handle: int) -> Any:
        """The next answer of a handle that has none unread."""
        await self.until({handle: len(self.answers[handle]) + 1})
        return self.answers[handle][-1]

    async def open(self, names: Mapping[int, str], model: str = "checker", **fields: Any) -> dict[int, pb.Opened]:
        """Opens sessions: what the server told of each."""
        opens = [
            pb.HandleOpen(handle=handle, open=pb.Open(session_id=name, model=model, **fields))
            for handle, name in names.items()
        ]
        await self.send(opens=opens)
        await self.until(dict.fromkeys(names, 1))
        told = {handle: self.answers[handle][0] for handle in names}
        assert all(isinstance(opened, pb.Opened) for opened in told.values()), told
        return told

    async def step(self, handles: Sequence[int], steps: Sequence[int], *inputs: np.ndarray, timesteps: int = 0) -> Any:
        """Sends timesteps and reads until each is answered: the answers, in the order of the handles."""
        counts = {handle: len(self.answers[handle]) + 1 for handle in handles}
        await self.send(timesteps=[columns(handles, steps, *inputs, timesteps=timesteps)])
        await self.until(counts)
        return [self.answers[handle][-1] for handle in handles]

    async def ended(self) -> Fault:
        """Reads what is left: the fault that ended the stream, which its last notice told too."""
        try:
            async with asyncio.timeout(LONGEST):
                while True:
                    await self.read()
        except grpc.aio.AioRpcError as error:
            told = fault_of(error)
        if self.messages and self.messages[-1].HasField("notice"):
            assert fault(self.messages[-1].notice.status) == told
        return told

    async def end(self) -> Fault | None:
        """Half-closes and reads to the end: the fault that there was, if any."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.call.done_writing()
        try:
            return await self.ended()
        except EOFError:
            return None

    async def close(self) -> None:
        """As `end`, where no fault is right."""
        assert await self.end() is None


class RawMany(WireMany):
    """A stream on which bytes may go out in the place of a message."""

    def _begin(self, channel: grpc.aio.Channel) -> Any:
        return channel.stream_stream(
            "/cellwire.v1.CellService/StreamMany",
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=pb.StreamManyResponse.FromString,
        )()

    async def send_bytes(self, raw: bytes) -> None:
        """Sends them as they are."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.call.write(raw)


def taken_apart(replies: pb.ReplyColumns) -> list[tuple[int, pb.Reply]]:
    """Columns as the replies that `Stream` would have sent, but for the names of the tensors."""
    count = len(replies.handles)
    assert {len(replies.steps), len(replies.epochs), len(replies.durable_steps)} == {count}
    assert len(replies.h) == 16 * count
    assert all(column.shape[0] == count and len(column.data) % count == 0 for column in replies.outputs)
    assert len(replies.replayed) in (0, count)
    assert len(replies.degraded) in (0, count)
    apart = []
    for at, handle in enumerate(replies.handles):
        reply = pb.Reply(
            step=replies.steps[at],
            h=replies.h[16 * at : 16 * at + 16],
            epoch=replies.epochs[at],
            durable_step=replies.durable_steps[at],
            replayed=bool(replies.replayed) and replies.replayed[at],
            degraded=bool(replies.degraded) and replies.degraded[at],
            timesteps=replies.timesteps,
        )
        for column in replies.outputs:
            size = len(column.data) // count
            data = column.data[at * size : (at + 1) * size]
            reply.outputs.tensors.add(dtype=column.dtype, shape=column.shape[1:], data=data)
        apart.append((handle, reply))
    return apart


def output(reply: pb.Reply, place: int = 0) -> np.ndarray:
    """One output of a reply."""
    tensor = reply.outputs.tensors[place]
    kind = next(dtype for dtype, number in WIRE_TYPES.items() if number == tensor.dtype)
    return np.frombuffer(tensor.data, kind).reshape(tuple(tensor.shape))


def why(answer: Any) -> Fault:
    """The fault of a refusal."""
    assert isinstance(answer, pb.HandleRefused), answer
    return fault(answer.status)
