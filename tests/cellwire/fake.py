"""A small honest CellService in memory, to show a client the faults that a real one cannot be made to show.

It counts as the `checker` model does, numbers, replays and fences as the protocol says, and keeps its sessions in
a `Memory` that several replicas share.
"""

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from cellwire.tensors import TensorSpec, decode, encode
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc, resume_pb2, tensor_pb2
from models.cells import checked
from tests.harness import number

WINDOW = 4
RING = 8
SPEC = {"x": TensorSpec("x", number(0).dtype, (1,))}


def status(code: int, reason: str, *, delay: float | None = None, at: "Kept | None" = None) -> status_pb2.Status:
    """As the service makes them."""
    made = status_pb2.Status(code=code, message=f"made for a test: {reason}")
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="cellwire")]
    if delay is not None:
        wait = error_details_pb2.RetryInfo()
        wait.retry_delay.FromNanoseconds(int(delay * 1e9))
        details.append(wait)
    if at is not None:
        details.append(
            resume_pb2.Position(step=at.step, h=at.h, epoch=at.epoch, incarnation=at.incarnation, store_id=b"store")
        )
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        made.details.append(packed)
    return made


@dataclass
class Kept:
    """A session in the memory."""

    incarnation: bytes
    epoch: int = 0
    owner: object = None
    step: int = 0
    h: bytes = bytes(16)
    state: int = 0
    closed: bool = False
    ring: dict[int, tuple[bytes, pb.Reply]] = field(default_factory=dict)
    executed: Counter[int] = field(default_factory=Counter)
    inputs: list[int] = field(default_factory=list)


@dataclass
class Memory:
    """What replicas share, and the faults that are still to come."""

    sessions: dict[str, Kept] = field(default_factory=dict)
    faults: dict[tuple[str, int], int] = field(default_factory=dict)
    """(kind, step) -> how many times."""
    opens: list[pb.Open] = field(default_factory=list)
    on_step: Callable[[int], None] = lambda step: None

    def strikes(self, kind: str, step: int) -> bool:
        """Whether this fault is due now."""
        left = self.faults.get((kind, step), 0)
        self.faults[(kind, step)] = left - 1
        return left > 0


class FakeReplica(cell_service_pb2_grpc.CellServiceServicer):
    """Serves the sessions of a memory; leaving it kills it."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.target = ""
        self.streams = 0

    async def __aenter__(self) -> "FakeReplica":
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        cell_service_pb2_grpc.add_CellServiceServicer_to_server(self, self.server)
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop(0)

    async def Stream(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StreamRequest], context: Any
    ) -> AsyncIterator[pb.StreamResponse]:
        self.streams += 1
        try:
            messages = aiter(request_iterator)
            opening = (await anext(messages)).open
            kept = await self._claim(opening, context)
            owner = kept.owner = object()
            yield self._opened(opening, kept)
            async for message in messages:
                if kept.owner is not owner:
                    await self._end(context, status(code_pb2.ABORTED, "SUPERSEDED"))
                if message.HasField("close"):
                    kept.closed = kept.closed or not message.close.keep
                    if self.memory.strikes("lose_closed", 0):
                        await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
                    yield pb.StreamResponse(closed=pb.Closed(step=kept.step))
                    return
                async for response in self._step(message.timestep, kept, context):
                    yield response
        finally:
            self.streams -= 1

    async def _claim(self, opening: pb.Open, context: Any) -> Kept:
        self.memory.opens.append(opening)
        strikes, position = self.memory.strikes, len(self.memory.opens)
        if strikes("refuse_open", position):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no connection")
        if strikes("silent_open", position):
            await asyncio.Event().wait()
        if strikes("overloaded_open", position):
            await self._end(context, status(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", delay=0.01))
        incarnation = hashlib.sha256(opening.create_token).digest()[:16]
        kept = self.memory.sessions.get(opening.session_id)
        if kept is None:
            if opening.resume_point.received.step or opening.mode == pb.OPEN_MODE_RESUME:
                await self._end(context, status(code_pb2.NOT_FOUND, "SESSION_EXPIRED_OR_LOST"))
            kept = self.memory.sessions[opening.session_id] = Kept(incarnation)
        elif kept.closed:
            await self._end(context, status(code_pb2.FAILED_PRECONDITION, "SESSION_CLOSED", at=kept))
        elif opening.found_epoch != kept.epoch:
            await self._end(context, status(code_pb2.ABORTED, "STALE_OPEN", at=kept))
        elif opening.mode == pb.OPEN_MODE_CREATE and incarnation != kept.incarnation:
            await self._end(context, status(code_pb2.ALREADY_EXISTS, "SESSION_EXISTS"))
        if strikes("regress", position):
            kept.step -= 2
        if kept.step < opening.resume_point.durable_step:
            await self._end(context, status(code_pb2.DATA_LOSS, "STATE_REGRESSED", at=kept))
        kept.epoch += 1
        if strikes("lose_opened", position):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return kept

    def _opened(self, opening: pb.Open, kept: Kept) -> pb.StreamResponse:
        h = b"another lineage!" if self.memory.strikes("other_h", len(self.memory.opens)) else kept.h
        spec = tensor_pb2.TensorSpec(name="x", dtype=tensor_pb2.DATA_TYPE_INT64, shape=[1])
        opened = pb.Opened(
            created=kept.epoch == 1,
            step=kept.step,
            h=h,
            epoch=kept.epoch,
            incarnation=kept.incarnation,
            store_id=b"store",
            window=WINDOW,
            ring=RING,
            max_timesteps=8,
            model=opening.model or "checker",
            version="1",
            inputs=["x"],
            outputs=["y"],
            input_specs=[spec],
        )
        return pb.StreamResponse(opened=opened)

    async def _step(self, timestep: pb.Timestep, kept: Kept, context: Any) -> AsyncIterator[pb.StreamResponse]:
        strikes = self.memory.strikes
        first, values = timestep.step, [int(x) for x in decode(timestep.inputs[0]).reshape(-1)]
        last = first + max(timestep.timesteps, 1) - 1
        if strikes("lose_request", last):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        if strikes("overloaded", last):
            yield self._refused(first, status(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", delay=0.01))
            return
        h = hashlib.sha256(kept.h + timestep.inputs[0].data).digest()[:16]
        if last in kept.ring:
            yield pb.StreamResponse(reply=kept.ring[last][1])
            return
        if first != kept.step + 1:
            reason = "STEP_GAP" if first > kept.step else "STEP_TOO_OLD"
            yield self._refused(first, status(code_pb2.FAILED_PRECONDITION, reason, at=kept))
            return
        if min(values) < 0:
            yield self._refused(first, status(code_pb2.INVALID_ARGUMENT, "INVALID_INPUT"))
            return
        reply = self._execute(kept, first, last, timestep.timesteps, values, h)
        self.memory.on_step(last)
        if strikes("lose_reply", last):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        if strikes("silent", last):
            await asyncio.Event().wait()
        if strikes("end_without_a_word", last):
            return
        if strikes("drain", last):
            yield pb.StreamResponse(reply=reply)
            draining = status(code_pb2.UNAVAILABLE, "DRAINING", delay=30.0)
            yield pb.StreamResponse(notice=pb.Notice(status=draining))
            await self._end(context, draining)
        if strikes("superseded", last):
            superseded = status(code_pb2.ABORTED, "SUPERSEDED")
            yield pb.StreamResponse(notice=pb.Notice(status=superseded))
            await self._end(context, superseded)
        yield pb.StreamResponse(reply=reply)
        if strikes("twice", last):
            yield pb.StreamResponse(reply=reply)

    def _execute(self, kept: Kept, first: int, last: int, timesteps: int, values: list[int], h: bytes) -> pb.Reply:
        outputs = checked(values, kept.state)
        kept.state, kept.step, kept.h = outputs[-1], last, h
        kept.executed.update(range(first, last + 1))
        kept.inputs += values
        shape = (timesteps, 1) if timesteps else (1,)
        array = number(0).repeat(len(outputs))
        array[:] = outputs
        tensors = tensor_pb2.Outputs(tensors=[encode(array.reshape(shape), "y")])
        reply = pb.Reply(step=last, h=h, epoch=kept.epoch, durable_step=last, timesteps=timesteps, outputs=tensors)
        stored = pb.Reply()
        stored.CopyFrom(reply)
        stored.replayed = True
        kept.ring[last] = (h, stored)
        kept.ring.pop(last - RING * max(timesteps, 1), None)
        return reply

    def _refused(self, step: int, why: status_pb2.Status) -> pb.StreamResponse:
        return pb.StreamResponse(refused=pb.Refused(step=step, status=why))

    async def _end(self, context: Any, why: status_pb2.Status) -> None:
        code = next(code for code in grpc.StatusCode if code.value[0] == why.code)
        trailers = (("grpc-status-details-bin", why.SerializeToString()),)
        await context.abort(code, why.message, trailers)

    async def Step(self, request: pb.StepRequest, context: Any) -> pb.StepResponse:  # noqa: N802
        """As a stream of one message."""
        kept = self.memory.sessions.get(request.open.session_id)
        if kept is None:
            incarnation = hashlib.sha256(request.open.create_token).digest()[:16]
            kept = self.memory.sessions[request.open.session_id] = Kept(incarnation)
        async for response in self._step(request.timestep, kept, context):
            if response.HasField("refused"):
                await self._end(context, response.refused.status)
            return pb.StepResponse(opened=self._opened(request.open, kept).opened, reply=response.reply)
        raise AssertionError("a step is answered")

    async def StreamMany(self, request_iterator: Any, context: Any) -> Any:  # type: ignore[override]  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")


def token() -> bytes:
    """As a client draws one."""
    return os.urandom(16)
