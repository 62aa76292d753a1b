"""A small honest CellService in memory, to show a client the faults that a real one cannot be made to show.

It counts as the `checker` model does, numbers, replays and fences as the protocol says, and keeps its sessions in
a `Memory` that several replicas share, and that can be made to fall back. In write-behind a replica holds up to
`FLUSH` steps that the memory has not got.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
FLUSH = 3
REPLICAS = 1
SPEC = {"x": TensorSpec("x", number(0).dtype, (1,))}


def status(
    code: int, reason: str, *, delay: float | None = None, at: resume_pb2.Position | None = None
) -> status_pb2.Status:
    """As the service makes them."""
    made = status_pb2.Status(code=code, message=f"made for a test: {reason}")
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="cellwire")]
    if delay is not None:
        wait = error_details_pb2.RetryInfo()
        wait.retry_delay.FromNanoseconds(int(delay * 1e9))
        details.append(wait)
    if at is not None:
        details.append(at)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        made.details.append(packed)
    return made


class Step(NamedTuple):
    """One message that was executed."""

    first: int
    inputs: list[int]
    state: int
    reply: pb.Reply

    @property
    def last(self) -> int:
        return self.reply.step


@dataclass
class Kept:
    """A session in the memory: every message that was committed, oldest first."""

    incarnation: bytes
    epoch: int = 0
    owner: object = None
    closed: bool = False
    history: list[Step] = field(default_factory=list)
    executed: Counter[int] = field(default_factory=Counter)
    """How often each step was committed onto this history."""
    forgotten: Counter[int] = field(default_factory=Counter)
    """How often each step was lost."""

    @property
    def step(self) -> int:
        return self.history[-1].last if self.history else 0

    @property
    def h(self) -> bytes:
        return self.history[-1].reply.h if self.history else bytes(16)

    @property
    def state(self) -> int:
        return self.history[-1].state if self.history else 0

    @property
    def place(self) -> resume_pb2.Position:
        return resume_pb2.Position(
            step=self.step, h=self.h, epoch=self.epoch, incarnation=self.incarnation, store_id=b"store"
        )

    @property
    def inputs(self) -> list[int]:
        return [x for step in self.history for x in step.inputs]

    def commit(self, steps: Sequence[Step]) -> None:
        self.history += steps
        for step in steps:
            self.executed.update(range(step.first, step.last + 1))

    def stored(self, last: int) -> pb.Reply | None:
        """The reply to the message that ends with this step, if the ring still has it."""
        return next((step.reply for step in self.history[-RING:] if step.last == last), None)

    def known_h(self, step: int) -> bytes | None:
        """The digest of a step that the ring still tells."""
        known = {0: bytes(16)} if len(self.history) <= RING else {}
        known.update((step.last, step.reply.h) for step in self.history[-RING - 1 :])
        return known.get(step)

    def fall_back(self, messages: int) -> None:
        """The last so many messages are lost."""
        left = max(len(self.history) - messages, 0)
        for lost in self.history[left:]:
            self.forgotten.update(range(lost.first, lost.last + 1))
            self.executed.subtract(range(lost.first, lost.last + 1))
        del self.history[left:]


@dataclass
class Live:
    """A session as a stream holds it: ahead of the memory by what is pending."""

    kept: Kept
    write_behind: bool
    replicas: int = 0
    pending: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owner = self.kept.owner = object()
        self.committed = (self.kept.step, self.kept.h)

    @property
    def step(self) -> int:
        return self.pending[-1].last if self.pending else self.committed[0]

    @property
    def h(self) -> bytes:
        return self.pending[-1].reply.h if self.pending else self.committed[1]

    @property
    def state(self) -> int:
        return self.pending[-1].state if self.pending else self.kept.state

    def fault(self) -> status_pb2.Status | None:
        """Why it cannot commit any more."""
        if self.kept.owner is not self.owner:
            return status(code_pb2.ABORTED, "SUPERSEDED")
        if self.committed != (self.kept.step, self.kept.h):
            return status(code_pb2.DATA_LOSS, "STATE_REGRESSED", at=resume_pb2.Position(step=self.kept.step))
        return None

    def flush(self) -> None:
        """Only where there is no fault."""
        self.kept.commit(self.pending)
        self.pending.clear()
        self.committed = (self.kept.step, self.kept.h)


@dataclass
class Memory:
    """What replicas share, and the faults that are still to come."""

    sessions: dict[str, Kept] = field(default_factory=dict)
    faults: dict[tuple[str, int], int] = field(default_factory=dict)
    """(kind, step) -> how many times; of "fall_back" and "regress": how many messages are lost."""
    opens: list[pb.Open] = field(default_factory=list)
    timesteps: list[pb.Timestep] = field(default_factory=list)
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
            live = Live(kept, opening.write_mode == pb.WRITE_MODE_WRITE_BEHIND, opening.replicas)
            yield self._opened(opening, live)
            if opening.HasField("replies_after"):
                for step in kept.history:
                    if step.last > opening.replies_after:
                        if self.memory.strikes("lose_fetched", step.last):
                            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
                        yield _replayed(step.reply)
            async for message in messages:
                if (fault := live.fault()) is not None:
                    yield pb.StreamResponse(notice=pb.Notice(status=fault))
                    await self._end(context, fault)
                if message.HasField("close"):
                    live.flush()
                    kept.closed = kept.closed or not message.close.keep
                    if self.memory.strikes("lose_closed", 0):
                        await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
                    yield pb.StreamResponse(closed=pb.Closed(step=kept.step))
                    return
                async for response in self._step(message.timestep, live, context):
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
            await self._end(context, status(code_pb2.FAILED_PRECONDITION, "SESSION_CLOSED", at=kept.place))
        elif opening.found_epoch != kept.epoch:
            await self._end(context, status(code_pb2.ABORTED, "STALE_OPEN", at=kept.place))
        elif opening.mode == pb.OPEN_MODE_CREATE and incarnation != kept.incarnation:
            await self._end(context, status(code_pb2.ALREADY_EXISTS, "SESSION_EXISTS"))
        if strikes("regress", position):
            kept.fall_back(2)
        if (fault := self._lineage(opening, kept)) is not None:
            await self._end(context, fault)
        kept.epoch += 1
        if strikes("lose_opened", position):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return kept

    def _lineage(self, opening: pb.Open, kept: Kept) -> status_pb2.Status | None:
        """As the script of a claim compares a resume point."""
        point, accepted = opening.resume_point, opening.accept_regression
        if not opening.HasField("resume_point"):
            return None
        known = kept.known_h(point.received.step)
        if known is not None and known != point.received.h and point.received.step:
            return status(code_pb2.FAILED_PRECONDITION, "LINEAGE_MISMATCH", at=kept.place)
        if known is None and point.received.step < kept.step and not opening.skip_lost_replies:
            return status(code_pb2.OUT_OF_RANGE, "STEP_TOO_OLD", at=kept.place)
        if kept.step < point.durable_step and (accepted.step, accepted.h) != (kept.step, kept.h):
            return status(code_pb2.DATA_LOSS, "STATE_REGRESSED", at=kept.place)
        if any(pair.step == kept.step and pair.h != kept.h for pair in point.undurable):
            return status(code_pb2.FAILED_PRECONDITION, "LINEAGE_MISMATCH", at=kept.place)
        return None

    def _opened(self, opening: pb.Open, live: Live) -> pb.StreamResponse:
        kept = live.kept
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
            write_mode=pb.WRITE_MODE_WRITE_BEHIND if live.write_behind else pb.WRITE_MODE_WRITE_THROUGH,
            max_undurable=FLUSH if live.write_behind else 0,
            replicas=opening.replicas,
            model=opening.model or "checker",
            version="1",
            inputs=["x"],
            outputs=["y"],
            input_specs=[spec],
        )
        return pb.StreamResponse(opened=opened)

    async def _step(self, timestep: pb.Timestep, live: Live, context: Any) -> AsyncIterator[pb.StreamResponse]:
        strikes = self.memory.strikes
        self.memory.timesteps.append(timestep)
        first, values = timestep.step, [int(x) for x in decode(timestep.inputs[0]).reshape(-1)]
        last = first + max(timestep.timesteps, 1) - 1
        if self.memory.faults.get(("fall_back", last), 0):
            live.kept.fall_back(self.memory.faults.pop(("fall_back", last)))
            if (fault := live.fault()) is not None:
                yield pb.StreamResponse(notice=pb.Notice(status=fault))
                await self._end(context, fault)
        if strikes("lose_request", last):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        if strikes("overloaded", last):
            yield self._refused(first, status(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", delay=0.01))
            return
        stored = live.kept.stored(last)
        if stored is not None:
            yield _replayed(stored)
            return
        if first != live.step + 1:
            reason = "STEP_GAP" if first > live.step else "STEP_TOO_OLD"
            yield self._refused(first, status(code_pb2.FAILED_PRECONDITION, reason, at=live.kept.place))
            return
        if live.kept.forgotten[last] and strikes("refused_again", last):
            yield self._refused(first, status(code_pb2.INTERNAL, "NON_FINITE"))
            return
        if min(values) < 0:
            yield self._refused(first, status(code_pb2.INVALID_ARGUMENT, "INVALID_INPUT"))
            return
        reply = self._execute(live, timestep, values)
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

    def _execute(self, live: Live, timestep: pb.Timestep, values: list[int]) -> pb.Reply:
        first, timesteps = timestep.step, timestep.timesteps
        last = first + max(timesteps, 1) - 1
        outputs = checked(values, live.state)
        h = hashlib.sha256(live.h + timestep.inputs[0].data).digest()[:16]
        array = number(0).repeat(len(outputs))
        array[:] = outputs
        tensors = tensor_pb2.Outputs(tensors=[encode(array.reshape((timesteps, 1) if timesteps else (1,)), "y")])
        reply = pb.Reply(step=last, h=h, epoch=live.kept.epoch, timesteps=timesteps, outputs=tensors)
        live.pending.append(Step(first, values, outputs[-1], reply))
        if not live.write_behind or len(live.pending) >= FLUSH:
            live.flush()
        reply.durable_step, reply.degraded = live.committed[0], live.replicas > REPLICAS
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
        live = Live(kept, write_behind=False)
        async for response in self._step(request.timestep, live, context):
            if response.HasField("refused"):
                await self._end(context, response.refused.status)
            return pb.StepResponse(opened=self._opened(request.open, live).opened, reply=response.reply)
        raise AssertionError("a step is answered")

    async def StreamMany(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StreamManyRequest], context: Any
    ) -> AsyncIterator[pb.StreamManyResponse]:
        """Each handle as a stream of its own; a connection that breaks is that of all."""
        handles: dict[int, asyncio.Queue[pb.StreamRequest | None]] = {}
        said: asyncio.Queue[pb.StreamManyResponse | BaseException] = asyncio.Queue()

        async def read() -> None:
            async for message in request_iterator:
                for opening in message.opens:
                    handles[opening.handle] = asyncio.Queue()
                    serving.add(asyncio.create_task(self._serve(opening.handle, handles[opening.handle], said)))
                    handles[opening.handle].put_nowait(pb.StreamRequest(open=opening.open))
                for columns in message.timesteps:
                    for handle, timestep in rows(columns):
                        handles[handle].put_nowait(pb.StreamRequest(timestep=timestep))
                for closing in message.closes:
                    handles[closing.handle].put_nowait(pb.StreamRequest(close=closing.close))

        serving = {asyncio.create_task(read())}
        try:
            while True:
                answer = await said.get()
                if isinstance(answer, BaseException):
                    await context.abort(grpc.StatusCode.UNAVAILABLE, str(answer))
                else:
                    yield answer
        finally:
            for task in serving:
                task.cancel()

    async def _serve(self, handle: int, requests: Any, said: Any) -> None:
        async def messages() -> AsyncIterator[pb.StreamRequest]:
            while True:
                yield await requests.get()

        try:
            async for response in self.Stream(messages(), HandleContext()):
                if response.HasField("notice"):
                    continue  # the end says it too
                said.put_nowait(of_handle(handle, response))
        except Ended as ended:
            refused = pb.HandleRefused(handle=handle, status=ended.status, ended=True)
            said.put_nowait(pb.StreamManyResponse(refused=[refused]))
        except ConnectionError as broken:
            said.put_nowait(broken)


class Ended(Exception):
    """A stream was ended with a status."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class HandleContext:
    """As much of an RPC's context as a handle has."""

    async def abort(self, code: Any, message: str, trailers: Any = ()) -> None:
        for _, status in trailers:
            raise Ended(status_pb2.Status.FromString(status))
        raise ConnectionError(message)


def rows(columns: pb.TimestepColumns) -> list[tuple[int, pb.Timestep]]:
    """The timesteps of columns, one a handle."""
    apart = []
    count = len(columns.handles)
    for at, (handle, step) in enumerate(zip(columns.handles, columns.steps, strict=True)):
        timeout = columns.timeout if columns.HasField("timeout") else None
        timestep = pb.Timestep(step=step, timesteps=columns.timesteps, timeout=timeout, priority=columns.priority)
        for column in columns.inputs:
            size = len(column.data) // count
            data = column.data[at * size : (at + 1) * size]
            timestep.inputs.add(dtype=column.dtype, shape=column.shape[1:], data=data)
        apart.append((handle, timestep))
    return apart


def of_handle(handle: int, response: pb.StreamResponse) -> pb.StreamManyResponse:
    """What a stream of one says, on a stream of many."""
    if response.HasField("opened"):
        return pb.StreamManyResponse(opened=[pb.HandleOpened(handle=handle, opened=response.opened)])
    if response.HasField("closed"):
        return pb.StreamManyResponse(closed=[pb.HandleClosed(handle=handle, closed=response.closed)])
    if response.HasField("refused"):
        refused = response.refused
        told = pb.HandleRefused(handle=handle, step=refused.step, status=refused.status)
        return pb.StreamManyResponse(refused=[told])
    reply = response.reply
    columns = pb.ReplyColumns(
        handles=[handle],
        steps=[reply.step],
        h=reply.h,
        epochs=[reply.epoch],
        durable_steps=[reply.durable_step],
        replayed=[reply.replayed],
        degraded=[reply.degraded],
        timesteps=reply.timesteps,
    )
    for tensor in reply.outputs.tensors:
        columns.outputs.add(dtype=tensor.dtype, shape=[1, *tensor.shape], data=tensor.data)
    return pb.StreamManyResponse(replies=[columns])


def _replayed(reply: pb.Reply) -> pb.StreamResponse:
    answer = pb.StreamResponse(reply=reply)
    answer.reply.replayed = True
    return answer
