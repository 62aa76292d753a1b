"""What keeps one session on some replica: one stream at a time, resumed elsewhere until the session is closed.

`Line._follow` is the whole of it: open, send what is unanswered, take the replies. Numbers and order are in
`cellwire.unanswered`, what an error means is in `cellwire.errors`, when to try again is in `cellwire.retries`.
"""

import asyncio
import logging
import random
from contextlib import suppress
from typing import Any

import grpc.aio

from cellwire.errors import (
    CellwireError,
    Disconnected,
    Remedy,
    SessionClosed,
    from_rpc,
    from_status,
)
from cellwire.replies import Opened, Resumption
from cellwire.resume import ResumePoint
from cellwire.retries import AGAIN, Patience, final, retrying
from cellwire.standing import Standing
from cellwire.targets import Target, Targets
from cellwire.unanswered import Message, Run, Unanswered
from cellwire.v1 import cell_service_pb2
from cellwire.v1.cell_service_pb2 import StreamRequest, StreamResponse

_log = logging.getLogger("cellwire")


class Line:
    """The life of a session at its client, from `start` to `end`.

    `submit` numbers a message and gives its answer as a future; each message is answered exactly once, in order, or
    fails. A replica may execute a message twice over only in the sense that it finds it done and says so.
    """

    def __init__(
        self, targets: Targets, point: ResumePoint, options: cell_service_pb2.Open, patience: Patience
    ) -> None:
        self._targets = targets
        self._turn = random.randrange(len(targets))  # noqa: S311  spreads sessions over replicas
        self._patience = patience
        self.standing = Standing(point, options)
        self._unanswered = Unanswered(point.step, self._release_room)
        self._pause = 0.0
        self._closing_since: float | None = None
        self._keep = False
        self._deadline: asyncio.Timeout | None = None
        self._lost_because = ""
        self._told = False
        self.failure: BaseException | None = None
        """Why the session has ended for this client."""
        self.opened: Opened | None = None
        self.outputs: tuple[str, ...] = ()
        """The order of tensors without names."""
        self.resumptions: list[Resumption] = []

    @property
    def session_id(self) -> str:
        """The id that the session has in the store."""
        return self.standing.point.session_id

    # the application's side

    async def start(self) -> None:
        """Open the session on some replica and keep it."""
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._began = loop.time()
        self._more = asyncio.Event()
        self._room = asyncio.Semaphore(0)
        self._is_open: asyncio.Future[None] = loop.create_future()
        self._is_closed: asyncio.Future[None] = loop.create_future()
        self._life = asyncio.create_task(self._live(), name=f"cellwire session {self.session_id}")
        try:
            await self._is_open
        except BaseException:
            await self.end()
            raise

    async def submit(self, timestep: cell_service_pb2.Timestep, run: Run | None = None) -> Message:
        """Number a message and send it as soon as there is room in the window; raises what ended session or run."""
        if self._closing_since is not None:
            raise SessionClosed("the session was closed by this client")
        await self._room.acquire()
        over = self.failure or (run and run.refusal)
        if over:
            self._told = self._told or self.failure is not None
            self._room.release()  # the next one who waits is told too
            raise over
        answer: asyncio.Future[cell_service_pb2.Reply] = asyncio.get_running_loop().create_future()
        request = StreamRequest(timestep=timestep)
        message = Message(request, max(timestep.timesteps, 1), answer, self._clock(), run)
        self._unanswered.add(message)
        self._more.set()
        return message

    async def close(self, keep: bool) -> None:
        """Wait for what is unanswered, then close the session; a failure that nobody was told of is raised."""
        if self._closing_since is None:
            self._closing_since, self._keep = self._clock(), keep
            self._more.set()
        if not self._told:
            await asyncio.shield(self._is_closed)

    async def end(self) -> None:
        """Leave the stream, whatever is unanswered; the state stays in the store."""
        self._life.cancel()
        await asyncio.wait({self._life})

    # its life: one turn for each stream that brought the session on, one attempt for each that did not

    async def _live(self) -> None:
        try:
            while not self._is_closed.done():
                async for attempt in retrying(len(self._targets), self._gives_up):
                    with attempt:
                        await self._follow(self._targets[self._turn])
        except CellwireError as error:
            self._fail(final(error, self._patience))
        except asyncio.CancelledError:
            self._fail(SessionClosed("the session was left"))
            raise
        except Exception as error:  # a fault of our own: whoever waits is answered all the same
            self._fail(error)

    async def _follow(self, target: Target) -> None:
        """One stream, from its open to its end: returns if it brought the session on, else raises why not."""
        call = target.cells.Stream()
        sender: asyncio.Task[None] | None = None
        step_before = self._unanswered.received_step
        try:
            async with asyncio.timeout(self._patience.open) as self._deadline:
                await _write(call, StreamRequest(open=self.standing.opening()))
                self._adopt(await _read(call), target)
                sender = asyncio.create_task(self._send(call))
                while not self._is_closed.done():
                    self._take(await _read(call))
        except TimeoutError:
            failure: CellwireError = Disconnected(f"{target.address} gave no answer in time")
        except CellwireError as error:
            failure = error
        else:
            return
        finally:
            call.cancel()
            if sender is not None:
                sender.cancel()
                await asyncio.wait({sender})
            self._unanswered.stream_ended()
        if not self._was_closed(failure):
            self._prepare_next(failure, target)
            if failure.remedy not in AGAIN or self._unanswered.received_step == step_before:
                raise failure

    def _adopt(self, response: StreamResponse, target: Target) -> None:
        """The session is ours: compare where it stands with what we know, before anything is sent."""
        if not response.HasField("opened"):
            raise Disconnected(f"{target.address} did not answer an open")
        told, first = response.opened, self.opened is None
        received_step = self.standing.adopt(told, None if first else self._unanswered.may_have_reached)
        self.opened, self.outputs = Opened.of(told, target.address), tuple(told.outputs)
        self._set_deadline(None)
        if first:
            self._unanswered.received_step = received_step
            for _ in range(max(told.window, 1)):
                self._room.release()
            self._is_open.set_result(None)
            return
        resent = sum(message.steps for message in self._unanswered)
        self.resumptions.append(Resumption(target.address, received_step, told.step, resent, self._lost_because))
        _log.info(
            "session %s resumed on %s at step %d (epoch %d): %s",
            self.session_id, target.address, told.step, told.epoch, self._lost_because,
        )  # fmt: skip

    async def _send(self, call: Any) -> None:
        """Send what is unanswered in order, and at the end the close."""
        while True:
            if self._pause:
                pause, self._pause = self._pause, 0.0
                await asyncio.sleep(pause)
            while (message := self._unanswered.take()) is not None:
                self._owe_answer()
                await _write(call, message.request)
            if self._closing_since is not None and not self._unanswered:
                self._owe_answer()
                step = self._unanswered.received_step
                await _write(call, StreamRequest(close=cell_service_pb2.Close(step=step, keep=self._keep)))
                return
            await self._more.wait()
            self._more.clear()

    def _take(self, response: StreamResponse) -> None:
        """One message of the current stream."""
        kind = response.WhichOneof("kind")
        if kind == "reply":
            self._take_reply(response.reply)
        elif kind == "refused":
            self._take_refusal(response.refused)
        elif kind == "closed":
            self._is_closed.set_result(None)
        elif kind == "notice":
            raise from_status(response.notice.status)
        else:
            raise Disconnected("a replica sent what does not belong on a stream")
        self._set_deadline(self._patience.reply if self._unanswered.on_stream else None)

    def _take_reply(self, reply: cell_service_pb2.Reply) -> None:
        self.standing.compare(reply)
        try:
            message = self._unanswered.answered(reply.step)
        except ValueError as error:
            raise Disconnected(str(error)) from None
        if message is None:
            return  # answered before: the application has it
        self.standing.receive(reply)
        if not message.answer.done():
            message.answer.set_result(reply)
        if self._unanswered.going_back or (self._closing_since is not None and not self._unanswered):
            self._more.set()

    def _take_refusal(self, refused: cell_service_pb2.Refused) -> None:
        error = from_status(refused.status).at(refused.step)
        message = self._unanswered.sent_at(refused.step)
        if message is None:
            raise error if error.remedy is Remedy.SURFACE else Disconnected(f"out of turn: {error}")
        behind = self._unanswered.going_back or message is not self._unanswered.oldest
        if error.remedy is Remedy.BACK and behind:
            self._unanswered.go_back(message)
        elif error.remedy is Remedy.LATER and self._clock() - message.since < self._patience.give_up:
            self._pause = max(error.retry_after or 0.0, random.uniform(0.0, 0.1))  # noqa: S311  jitter
            self._unanswered.go_back(message)
        elif error.remedy is Remedy.SKIP:
            self._unanswered.withdraw(message, error)
        else:
            raise final(error, self._patience) if error.remedy is Remedy.LATER else error
        self._more.set()

    # what follows from the end of a stream

    def _was_closed(self, failure: CellwireError) -> bool:
        """Whether the stream ended after the session was closed, though its Closed was lost."""
        if self._closing_since is None or self._unanswered:
            return False
        # to keep the state, leaving the stream is all that was asked
        closed = failure.remedy in AGAIN if self._keep else isinstance(failure, SessionClosed)
        if closed:
            self._is_closed.set_result(None)
        return closed

    def _prepare_next(self, failure: CellwireError, target: Target) -> None:
        if failure.remedy is Remedy.ELSEWHERE:
            self._turn += 1
        elif failure.remedy is Remedy.REOPEN and failure.position is not None:
            self.standing.found_epoch = failure.position.epoch
        if failure.remedy is not Remedy.REOPEN:
            self._lost_because = failure.reason
        _log.debug("session %s left %s: %s", self.session_id, target.address, failure.reason)

    def _gives_up(self) -> bool:
        """Whether someone has waited too long; a session for which nobody waits is kept for ever."""
        since = [] if self._is_open.done() else [self._began]
        since += [] if self._closing_since is None else [self._closing_since]
        since += [oldest.since] if (oldest := self._unanswered.oldest) is not None else []
        return bool(since) and self._clock() - min(since) > self._patience.give_up

    def _fail(self, error: BaseException) -> None:
        """The session has ended: everyone who waits, and everyone who comes, is told."""
        self.failure = error
        self._told = self._unanswered.fail(error)
        for waiter in (self._is_open, self._is_closed):
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()  # seen
        self._room.release()

    def _release_room(self) -> None:
        self._room.release()

    # how long a replica may owe an answer

    def _owe_answer(self) -> None:
        if self._deadline is not None and self._deadline.when() is None:
            self._set_deadline(self._patience.reply)

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(None if seconds is None else self._clock() + seconds)


async def _write(call: Any, request: StreamRequest) -> None:
    """Send, unless the stream has ended: the reader learns why."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(request)


async def _read(call: Any) -> StreamResponse:
    """The next message of a stream; its end is always an error."""
    try:
        response = await call.read()
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error.code(), error.details(), tuple(error.trailing_metadata() or ())) from None
    if response is grpc.aio.EOF:
        raise Disconnected("a replica ended the stream without a word")
    assert isinstance(response, StreamResponse)  # noqa: S101  for the type checker: grpcio has no types
    return response
