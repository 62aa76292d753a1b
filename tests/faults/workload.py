"""Clients that speak the protocol by themselves and write down what they ask and what they are told.

A Holder goes on as long as the promise allows: it resumes, accepts a regression that it was told, replays, and may
give other inputs from there on. It judges nothing; the checker does.
"""

import asyncio
import hashlib
import os
import random
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc, resume_pb2
from tests.faults.fleet import Fleet
from tests.faults.history import History
from tests.faults.reference import DTYPE, inputs
from tests.harness import WireStream, fault, fault_of, tensor
from tests.numbered import ended

OPEN_SECONDS, REPLY_SECONDS, CALL_SECONDS = 2.0, 1.5, 2.0
WINDOW = 4
COUNTS = (1, 3, 8, 16, 16, 16, 16, 16)
"""T of the messages, drawn by their place."""
PACE_SECONDS = 0.05
"""Mean time that a client takes over a message: most come at once, some after a while."""
LOST = frozenset({"SESSION_EXPIRED_OR_LOST", "LINEAGE_MISMATCH", "SESSION_UNKNOWN"})
"""Answers to an open after which there is nothing to go on from."""
BURST = 8
REMEMBERED = 512
"""Digests that a client keeps of what it was answered."""


class Lost(Exception):
    """The client was told that the store lost this life."""


class Over(Exception):
    """The life was closed, by this client or by its rival."""


@dataclass(eq=False)
class Script:
    """One life of a session id: what its clients send, whoever of them does."""

    session: str
    life: int
    model: str
    seed: int
    behind: bool = False
    rivals: bool = False
    last: int = 0
    """It is closed once this step was answered; 0: it stays."""
    token: bytes = field(default_factory=lambda: os.urandom(16))
    branch: int = 0

    def count(self, first: int) -> int:
        """T of the message that begins with this step."""
        return COUNTS[hashlib.blake2b(b"%d.%d" % (self.seed, first), digest_size=2).digest()[0] % len(COUNTS)]

    def message(self, first: int) -> pb.Timestep:
        """The message that begins with this step."""
        count = self.count(first)
        x = inputs(self.model, self.seed, self.branch, first, count)
        return pb.Timestep(step=first, timesteps=count, inputs=[tensor(x)])


class Holder:
    """A holder of a session's token. Rivals are two holders of one script."""

    def __init__(
        self,
        name: str,
        script: Script,
        fleet: Fleet,
        history: History,
        draw: random.Random,
        pace: float = PACE_SECONDS,
    ) -> None:
        self.name, self.script = name, script
        self.pace = pace
        self.finish = asyncio.Event()
        """Set: it stops once what it sent is answered."""
        self._fleet, self._history, self._draw = fleet, history, draw
        self._step, self._durable, self._epoch = 0, 0, 0
        self._h, self._store_id = b"", b""
        self._digests: OrderedDict[int, bytes] = OrderedDict()
        """Last step of a message -> h, of what was answered."""
        self._accept: resume_pb2.Checkpoint | None = None
        self._skip = False

    async def run(self) -> None:
        """Until the life is over, lost, or to be finished."""
        try:
            while not await self._turn():
                pass
        except Lost:
            self._history.add("left", holder=self.name, why="lost")
        except Over:
            self._history.add("left", holder=self.name, why="over")
        else:
            self._history.add("left", holder=self.name, why="done")

    async def _turn(self) -> bool:
        """One stream or call; True: there is nothing more to do."""
        channel = self._fleet.any_channel(self._draw)
        if channel is None:
            await asyncio.sleep(0.05)
            return False
        reason = await self._ride(channel)
        if reason == "SUPERSEDED":
            await asyncio.sleep(self._draw.uniform(0.05, 0.5))
        elif reason not in ("", "STALE_OPEN", "STATE_REGRESSED", "STEP_TOO_OLD", "LEFT"):
            await asyncio.sleep(self._draw.uniform(0.01, 0.1))
        return not reason

    # one stream

    async def _ride(self, channel: grpc.aio.Channel) -> str:
        """Why the stream ended; nothing: all is done."""
        stream, told = self._begin("stream"), "denied"
        wire = WireStream(channel)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                response = await wire.ask(pb.StreamRequest(open=self._open()))
            sent = self._opened(stream, response.opened)
            told = "ended"
            reason = await self._go_on(wire, stream, sent)
        except TimeoutError:
            reason = "TIMEOUT"
        except (grpc.aio.AioRpcError, EOFError, asyncio.InvalidStateError) as error:
            reason = self._failed(error)
        finally:
            wire.call.cancel()
        self._history.add(told, stream=stream, reason=reason or "CLOSED")
        self._learn(reason, at_open=told == "denied")
        return reason

    async def _go_on(self, wire: WireStream, stream: int, sent: int) -> str:
        """Sends ahead and reads, until the stream ends or is left: why."""
        answered, owed, going_back = sent, 0, False
        leave_at = self._step + self._draw.randrange(16, 800)
        while True:
            if self.script.last and answered >= self.script.last and not owed:  # in write-behind: answered again
                return await self._close(wire, stream)
            if self.finish.is_set() and not owed:
                return ""
            async with asyncio.timeout(REPLY_SECONDS):
                while not going_back and owed < WINDOW and not self._has_sent_all(sent):
                    for _ in range(2 if self._draw.random() < 0.03 else 1):
                        await self._send(wire, stream, sent + 1)
                        owed += 1
                    sent += self.script.count(sent + 1)
                response = await wire.read()
            kind = response.WhichOneof("kind")
            if kind == "notice":
                continue
            owed -= 1
            if kind == "reply":
                self._take(stream, response.reply)
                answered = max(answered, response.reply.step)
            else:
                going_back = True
                reason = fault(response.refused.status).reason
                self._history.add("refused", stream=stream, step=response.refused.step, reason=reason)
                if reason != "STEP_GAP":
                    await asyncio.sleep(self._draw.uniform(0.02, 0.1))
            if going_back and not owed:
                going_back, sent = False, answered
            if self._step > leave_at:
                return "LEFT"
            await self._think()

    async def _think(self) -> None:
        if self._draw.random() < 1 / BURST and not self.finish.is_set():
            await asyncio.sleep(self._draw.uniform(0, 2 * BURST * self.pace))

    def _has_sent_all(self, sent: int) -> bool:
        return self.finish.is_set() or bool(self.script.last and sent >= self.script.last)

    async def _send(self, wire: WireStream, stream: int, first: int) -> None:
        message = self.script.message(first)
        self._history.add("send", stream=stream, first=first, count=message.timesteps, branch=self.script.branch)
        await wire.send(pb.StreamRequest(timestep=message))

    async def _close(self, wire: WireStream, stream: int) -> str:
        self._history.add("close", stream=stream, step=self._step)
        async with asyncio.timeout(REPLY_SECONDS):
            response = await wire.ask(pb.StreamRequest(close=pb.Close(step=self._step)))
            while response.WhichOneof("kind") == "notice":
                response = await wire.read()
        if response.WhichOneof("kind") == "closed":
            self._history.add("closed", stream=stream, step=response.closed.step)
            return ""
        self._history.add("refused", stream=stream, step=0, reason=fault(response.refused.status).reason)
        return "LEFT"

    # what it presents and learns

    def _begin(self, via: str) -> int:
        stream = self._history.new_stream()
        self._history.add(
            "open",
            stream=stream,
            holder=self.name,
            session=self.script.session,
            life=self.script.life,
            via=via,
            epoch=self._epoch,
            step=self._step,
            durable=self._durable,
            accept=self._accept.step if self._accept else None,
            skip=self._skip,
        )
        return stream

    def _open(self) -> pb.Open:
        point = None
        if self._h:
            undurable = [(step, h) for step, h in self._digests.items() if self._durable < step <= self._step]
            point = resume_pb2.ResumePoint(
                received=resume_pb2.Checkpoint(step=self._step, h=self._h),
                durable_step=self._durable,
                store_id=self._store_id,
                undurable=[resume_pb2.Checkpoint(step=step, h=h) for step, h in undurable],
            )
        return pb.Open(
            session_id=self.script.session,
            create_token=self.script.token,
            model=self.script.model,
            mode=pb.OPEN_MODE_RESUME if self._step else pb.OPEN_MODE_CREATE,
            resume_point=point,
            found_epoch=self._epoch,
            accept_regression=self._accept,
            skip_lost_replies=self._skip,
            write_mode=pb.WRITE_MODE_WRITE_BEHIND if self.script.behind else pb.WRITE_MODE_WRITE_THROUGH,
        )

    def _opened(self, stream: int, opened: pb.Opened) -> int:
        """Takes what an open was answered: the step after which to send."""
        self._history.add(
            "opened",
            stream=stream,
            step=opened.step,
            h=opened.h.hex(),
            epoch=opened.epoch,
            created=opened.created,
        )
        self._epoch, self._store_id = opened.epoch, opened.store_id
        if self._accept or self._skip or not self._h:
            if self._accept:
                self._branch_off(opened.step)
            self._step, self._h, self._durable = opened.step, opened.h, opened.step
            self._digests = OrderedDict((step, h) for step, h in self._digests.items() if step < opened.step)
            self._digests[opened.step] = opened.h
        self._accept, self._skip = None, False
        return min(opened.step, self._step)

    def _branch_off(self, at: int) -> None:
        """After a regression a client that is alone may go on with other inputs than those that were lost."""
        if self.script.rivals or self._draw.random() < 0.5:
            return
        parent, self.script.branch = self.script.branch, self.script.branch + 1
        self._history.add(
            "branch",
            session=self.script.session,
            life=self.script.life,
            branch=self.script.branch,
            parent=parent,
            at=at,
        )

    def _take(self, stream: int, reply: pb.Reply) -> None:
        (output,) = reply.outputs.tensors
        self._history.add(
            "reply",
            stream=stream,
            step=reply.step,
            h=reply.h.hex(),
            epoch=reply.epoch,
            durable=reply.durable_step,
            replayed=reply.replayed,
            outputs=np.frombuffer(output.data, DTYPE[self.script.model]).tolist(),
            digest=hashlib.blake2b(reply.outputs.SerializeToString(deterministic=True), digest_size=8).hexdigest(),
        )
        self._epoch, self._durable = reply.epoch, max(self._durable, reply.durable_step)
        if reply.step > self._step:
            self._step, self._h = reply.step, reply.h
            self._digests[reply.step] = reply.h
            while len(self._digests) > REMEMBERED:
                self._digests.popitem(last=False)

    def _failed(self, error: Exception) -> str:
        """The reason of an RPC's end, with what it tells of the session."""
        if not isinstance(error, grpc.aio.AioRpcError):
            return "CONNECTION"
        reason = ended(error).reason
        if reason in ("CONNECTION", "WRITE_FAILED_HERE"):
            return reason
        position = fault_of(error).position
        if reason == "STALE_OPEN" and position:
            self._epoch = position.epoch
        elif reason == "STATE_REGRESSED" and position and position.h:
            if self._digests.get(position.step, position.h) != position.h:
                reason = "LINEAGE_MISMATCH"
            else:
                self._accept = resume_pb2.Checkpoint(step=position.step, h=position.h)
                self._epoch = position.epoch
        return reason

    def _learn(self, reason: str, at_open: bool) -> None:
        """What the end of a stream or a call means for the life; on a stream only an open says what was lost.

        Raises:
            Lost: it is lost, and that was said.
            Over: it was closed.
        """
        if reason == "STATE_REGRESSED" and self._accept:
            self._history.add("regressed", holder=self.name, step=self._accept.step, reason=reason)
        elif reason == "STEP_TOO_OLD":
            self._skip = True
        elif reason in LOST or (reason == "STORE_LOST" and at_open):
            at = {"session": self.script.session, "life": self.script.life, "step": self._step}
            self._history.add("loss", holder=self.name, reason=reason, **at)
            raise Lost
        elif reason == "SESSION_CLOSED":
            raise Over


class Caller(Holder):
    """A holder without a stream: each message is a call, on any replica."""

    async def _turn(self) -> bool:
        if self.finish.is_set() or (self.script.last and self._step >= self.script.last):
            return True
        await self._think()
        return await super()._turn()

    async def _ride(self, channel: grpc.aio.Channel) -> str:
        stream = self._begin("call")
        message = self.script.message((self._accept.step if self._accept else self._step) + 1)
        self._history.add("send", stream=stream, first=message.step, count=message.timesteps, branch=self.script.branch)
        reason = "LEFT"
        try:
            request = pb.StepRequest(open=self._open(), timestep=message)
            cells = cell_service_pb2_grpc.CellServiceStub(channel)
            response: Any = await cells.Step(request, timeout=CALL_SECONDS)
            if self._accept:
                self._step, self._h, self._durable = self._accept.step, self._accept.h, self._accept.step
            self._accept, self._skip = None, False
            self._store_id = response.opened.store_id or self._store_id
            self._take(stream, response.reply)
        except grpc.aio.AioRpcError as error:
            reason = self._failed(error)
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                reason = "TIMEOUT"
        self._history.add("ended", stream=stream, reason=reason)
        self._learn(reason, at_open=True)
        return reason
