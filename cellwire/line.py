"""What keeps one session on some replica: one stream at a time, resumed elsewhere until the session is closed.

`Line._follow` is the whole of it: open, send what is unanswered, take the replies. Numbers and order are in
`cellwire.unanswered`, what was answered and may be needed again in `cellwire.tail`, what an error means in
`cellwire.errors`, when to try again in `cellwire.retries`.
"""

import asyncio
import logging
from dataclasses import replace

from cellwire.calls import Call, Dialling
from cellwire.errors import (
    CellwireError,
    Disconnected,
    LineageMismatch,
    Position,
    Remedy,
    SessionClosed,
    StateRegressed,
    StepDeadline,
    StoreLost,
    from_status,
)
from cellwire.replies import Opened, Resumption
from cellwire.resume import Checkpoint, ResumePoint
from cellwire.retries import AGAIN, Patience, final, jittered, retrying
from cellwire.standing import Standing, place_of
from cellwire.tail import Tail
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
        self,
        targets: Targets,
        point: ResumePoint,
        options: cell_service_pb2.Open,
        patience: Patience,
        tail: Tail,
        dialling: Dialling,
    ) -> None:
        self._targets = targets
        self._dial = dialling.dial
        self._turn = dialling.first_turn(len(targets))
        self._patience = patience
        self.standing = Standing(point, options)
        self._unanswered = Unanswered(point.step, self._release_room)
        self._tail = tail
        self._regressed = False
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
        self.fetched: list[cell_service_pb2.Reply] = []
        """Stored replies that came with the open, if they were asked for."""

    @property
    def session_id(self) -> str:
        """The id that the session has in the store."""
        return self.standing.point.session_id

    def point_after(self, checkpoint: Checkpoint) -> ResumePoint:
        """For whoever has the replies up to this one."""
        point, (step, h) = self.standing.point, checkpoint
        again = ((each.last_step, each.answered_h) for each in self._unanswered if each.answered_h)
        received = (*point.undurable, *self._tail.above(point.durable_step), *again)
        return replace(point, step=step, h=h, undurable=tuple(each for each in received if each[0] <= step))

    # the application's side

    async def start(self) -> None:
        """Open the session on some replica and keep it."""
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._began = loop.time()
        self._more = asyncio.Event()
        self._room = asyncio.Semaphore(0)
        self._answered: asyncio.Future[cell_service_pb2.Reply] = loop.create_future()
        self._answered.set_result(cell_service_pb2.Reply())  # for messages whose own reply was delivered
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
        call = self._dial(target)
        sender: asyncio.Task[None] | None = None
        step_before = self._unanswered.received_step
        try:
            async with asyncio.timeout(self._patience.open) as self._deadline:
                await call.write(StreamRequest(open=self._opening()))
                self._adopt(await call.read(), target)
                while self.standing.is_fetching:
                    self._fetch(await call.read())
                self._begin()
                sender = asyncio.create_task(self._send(call))
                while not self._is_closed.done():
                    self._take(await call.read())
        except TimeoutError:
            failure: CellwireError = Disconnected(f"{target.address} gave no answer in time")
        except CellwireError as error:
            failure = error
            if isinstance(error, StoreLost) and sender is not None:  # perhaps of a deposed primary: an open tells
                failure = Disconnected(error.message, reason=error.reason)
        else:
            return
        finally:
            if sender is not None:
                sender.cancel()
            await call.leave()
            if sender is not None:
                await asyncio.wait({sender})
            self._unanswered.stream_ended()
        if not (self._was_closed(failure) or self._was_brought_back(failure)):
            self._prepare_next(failure, target)
            if failure.remedy not in AGAIN or self._unanswered.received_step == step_before:
                raise failure

    def _opening(self) -> cell_service_pb2.Open:
        point = self.standing.point
        return self.standing.opening(self.point_after((point.step, point.h)).undurable)

    def _adopt(self, response: StreamResponse, target: Target) -> None:
        """The session is ours: compare where it stands with what we know, before anything is sent."""
        if not response.HasField("opened"):
            raise Disconnected(f"{target.address} did not answer an open")
        told, first = response.opened, not self._is_open.done()
        if not first and told.step < self.standing.point.step:
            self._go_back(place_of(told))
        self.standing.adopt(told, None if first else self._unanswered.may_have_reached)
        self.opened, self.outputs = Opened.of(told, target.address), tuple(told.outputs)
        self._unanswered.window = max(told.window, 1)
        if not first:
            self._note_resumption(told, target)

    def _fetch(self, response: StreamResponse) -> None:
        """A stored reply that the application has not got, to inputs that it has not kept."""
        if response.HasField("notice"):
            raise from_status(response.notice.status)
        reply = response.reply
        if reply.step <= self.standing.point.step:
            raise Disconnected("a replica did not send the stored replies that were asked for")
        self.standing.compare(reply)
        self.standing.receive(reply)
        self.fetched.append(reply)

    def _begin(self) -> None:
        """The session is ours: messages may go out; when it is opened for the first time, numbering begins."""
        self._set_deadline(None)
        if not self._is_open.done():
            point = self.standing.point
            self.standing.begin()
            self._tail.begin((point.step, point.h))
            self._unanswered.received_step = point.step
            for _ in range(self._unanswered.window):
                self._room.release()
            self._is_open.set_result(None)

    def _go_back(self, place: Position) -> None:
        """The store stands behind what it told or what was received: send again what it lacks, if that is all kept."""
        self._regressed |= place.step < self.standing.point.durable_step
        if place.step < self.standing.point.step:
            again = []
            for request, steps, h, _ in self._tail.back_to(place):
                request.timestep.ClearField("timeout")  # it was met
                again.append(Message(request, steps, self._answered, self._clock(), in_doubt=True, answered_h=h))
            self._unanswered.fall_back(place.step, again)
        self.standing.fall_back(place)

    def _note_resumption(self, told: cell_service_pb2.Opened, target: Target) -> None:
        replayed = sum(message.steps for message in self._unanswered if message.answered_h)
        resumption = Resumption(
            target=target.address,
            step=self._unanswered.received_step + replayed,
            found_step=told.step,
            unanswered=sum(message.steps for message in self._unanswered) - replayed,
            reason=self._lost_because,
            replayed=replayed,
            regressed=self._regressed,
        )
        self._regressed = False
        self.resumptions.append(resumption)
        _log.info(
            "session %s resumed on %s at step %d (epoch %d), %d timesteps replayed: %s",
            self.session_id, target.address, told.step, told.epoch, replayed, self._lost_because,
        )  # fmt: skip

    async def _send(self, call: Call) -> None:
        """Send what is unanswered in order, and at the end the close."""
        while True:
            if self._pause:
                pause, self._pause = self._pause, 0.0
                await asyncio.sleep(pause)
            while (message := self._unanswered.take()) is not None:
                self._owe_answer()
                await call.write(message.request)
            if self._closing_since is not None and not self._unanswered:
                self._owe_answer()
                step = self._unanswered.received_step
                await call.write(StreamRequest(close=cell_service_pb2.Close(step=step, keep=self._keep)))
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
        if message.answered_h not in (b"", reply.h):
            raise LineageMismatch("a replayed step has another history than when it was answered first")
        self.standing.receive(reply)
        self._tail.add(message, reply.h, self.standing.point.durable_step)
        if not message.answer.done():
            message.answer.set_result(reply)
        is_last = self._closing_since is not None and not self._unanswered
        if self._unanswered.going_back or message.answered_h or is_last:
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
            self._put_off(message, error)
        elif error.remedy is Remedy.SKIP and not message.answered_h:
            self._unanswered.withdraw(message, error)
        else:
            raise final(error, self._patience) if error.remedy is Remedy.LATER else error
        self._more.set()

    def _put_off(self, message: Message, refusal: CellwireError) -> None:
        """Send it again after the delay told and up to twice that; what cannot be in time then is refused."""
        self._pause = jittered(refusal.retry_after or 0.05)
        timeout = message.timeout
        if timeout is not None and self._clock() + self._pause > message.since + timeout:
            late = StepDeadline(f"not started within its {timeout:g} s: {refusal}")
            self._unanswered.withdraw(message, late.at(message.step))
        else:
            self._unanswered.go_back(message)

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

    def _was_brought_back(self, failure: CellwireError) -> bool:
        """Whether an open told that the store has fallen back, and this client can make good what it lost."""
        place = failure.position
        if not isinstance(failure, StateRegressed) or place is None or not self._is_open.done():
            return False
        if place.step >= self.standing.point.durable_step:
            return False
        self._go_back(place)
        return True

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
