"""The client: knows the replicas, opens sessions on them, and makes single calls.

async with Client(["host-a:50051", "host-b:50051"]) as client:
    async with client.session("mic-1", model="silero_vad") as session:
        async for reply in session.stream(frames):
            print(reply.step, reply.outputs["output"])
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self, TypeVar

import grpc
import grpc.aio
from numpy.typing import ArrayLike

from cellwire.calls import Dialling, OwnStreams
from cellwire.errors import CellwireError, Remedy, from_rpc
from cellwire.many import Many
from cellwire.replies import Model, Reply
from cellwire.resume import ResumePoint
from cellwire.retries import Patience, final, retrying
from cellwire.session import Session, new_timestep
from cellwire.tail import Tail
from cellwire.targets import Target, Targets
from cellwire.tensors import Frame, encode_frame
from cellwire.v1 import cell_service_pb2, model_service_pb2
from cellwire.v1.cell_service_pb2 import Open, OpenMode, WriteMode

Mode = Literal["create", "resume", "create_or_resume"]
_MODES: dict[str, OpenMode] = {
    "create": cell_service_pb2.OPEN_MODE_CREATE,
    "resume": cell_service_pb2.OPEN_MODE_RESUME,
    "create_or_resume": cell_service_pb2.OPEN_MODE_CREATE_OR_RESUME,
}
Writes = Literal["write_through", "write_behind"]
_WRITES: dict[str | None, WriteMode] = {
    None: cell_service_pb2.WRITE_MODE_UNSPECIFIED,
    "write_through": cell_service_pb2.WRITE_MODE_WRITE_THROUGH,
    "write_behind": cell_service_pb2.WRITE_MODE_WRITE_BEHIND,
}
LostReplies = Literal["resend", "fetch", "skip"]
_Answer = TypeVar("_Answer")
_OWN_STREAMS = OwnStreams()


class Client:
    """Opens sessions on any of several replicas of one service; they must share a store.

    `targets` are addresses such as "localhost:50051". `credentials` (grpc.ssl_channel_credentials) make the channels
    secure. `reply_timeout`: seconds that a replica may owe an answer before another one is asked; it must be longer
    than the slowest timestep. `give_up_after`: seconds that a timestep is tried before `Unavailable` is raised.

    A session keeps the inputs of its last `keep_messages` answered messages, up to `keep_bytes`, and brings a store
    that fell back behind them up again; 0 keeps none that the store holds, and StateRegressed is raised. What the
    store does not hold yet (write-behind) is always kept.
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        *,
        credentials: grpc.ChannelCredentials | None = None,
        reply_timeout: float = 2.0,
        give_up_after: float = 60.0,
        keep_messages: int = 256,
        keep_bytes: int = 4 * 2**20,
    ) -> None:
        self._targets = Targets(targets, credentials)
        self._patience = Patience(reply_timeout, max(5.0, reply_timeout), give_up_after)
        self._kept = (keep_messages, keep_bytes)
        self._turn = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channels. Sessions should be left before."""
        await self._targets.close()

    def session(
        self,
        session_id: str | None = None,
        *,
        model: str = "",
        version: str = "",
        mode: Mode = "create_or_resume",
        resume: ResumePoint | None = None,
        keep: bool = False,
        constants: Mapping[str, ArrayLike] | None = None,
        outputs: Sequence[str] = (),
        gates: bool = False,
        write_mode: Writes | None = None,
        replicas: int = 0,
        lost_replies: LostReplies = "resend",
        dialling: Dialling = _OWN_STREAMS,
    ) -> Session:
        """A session, to be entered with `async with`.

        `session_id`: 1 to 128 characters of A-Za-z0-9._:-; `model` is needed to create. `mode` says whether a session
        of this id may exist already. `resume` goes on from a saved `Session.resume_point` instead. `keep` keeps the
        state when the session is left normally. `constants` are the model's inputs that are given once, `outputs`
        the names to be sent (none: all), `gates` asks for the cell's gates too, where the model has them.

        `write_mode`: "write_through" answers a timestep when the store holds it, "write_behind" at once
        (`Reply.durable_step` tells how far the store is; what a replica loses is sent again from here); None: as the
        model's manifest says. `replicas`: so many replicas of the store must hold a timestep before it is answered;
        `Reply.degraded` tells where they did not.

        `lost_replies`: the store may be ahead of a saved point, by timesteps whose replies were lost with the program
        that was to get them. "resend": the application gives their inputs again, beginning with `last_step` + 1, and
        gets the stored replies. "fetch": it gets them in `Session.fetched` and goes on behind them; StepTooOld if they
        are not all kept. "skip": it goes on from where the store stands, without them.

        `dialling`: on what it travels; by default a stream of its own (see `many` for another way).
        """
        if resume is None:
            if session_id is None:
                raise ValueError("a session needs an id, or a resume point")
            resume, opening = ResumePoint.new(session_id, model, version), _MODES[mode]
        elif session_id not in (None, resume.session_id):
            raise ValueError("the resume point belongs to another session")
        else:
            opening = _MODES["resume"] if resume.epoch else _MODES[mode]
        options = Open(
            mode=opening,
            outputs=outputs,
            gates=gates,
            constants=encode_frame(constants or {}, {}),
            write_mode=_WRITES[write_mode],
            replicas=replicas,
            skip_lost_replies=lost_replies == "skip",
            replies_after=resume.step if resume.h and lost_replies == "fetch" else None,
        )
        return Session(self._targets, resume, options, self._patience, Tail(*self._kept), dialling, keep=keep)

    def many(self) -> Many:
        """A line for many sessions, to be entered with `async with`: they share one stream to a replica."""
        return Many(self.session)

    async def step(
        self,
        point: ResumePoint,
        frame: Frame,
        *,
        timesteps: int = 0,
        constants: Mapping[str, ArrayLike] | None = None,
        replicas: int = 0,
        start_within: float | None = None,
        priority: int = 0,
    ) -> tuple[Reply, ResumePoint]:
        """Advance a session by one message without a stream, on any replica.

        Begin with `ResumePoint.new(session_id, model)`, which creates the session (SessionExists if there is another
        of this id); give the point that comes back to the next call, from this program or another one. The call is
        repeated, on other replicas too, until it is answered; the state advances exactly once. `frame` and the options
        are as for `Session.step` and `session`; numbers and lists must be arrays of the model's dtype already. It is
        always written through.
        """
        timestep = new_timestep(timesteps, start_within, priority)
        timestep.step = point.step + 1
        timestep.inputs.extend(encode_frame(frame, {}))
        request = cell_service_pb2.StepRequest(
            open=Open(
                session_id=point.session_id,
                create_token=point.token,
                mode=_MODES["resume" if point.epoch else "create"],
                model=point.model,
                version=point.version,
                resume_point=point.message() if point.h else None,
                found_epoch=point.epoch,
                constants=encode_frame(constants or {}, {}) if not point.epoch else (),
                replicas=replicas,
            ),
            timestep=timestep,
        )
        answer: cell_service_pb2.StepResponse = await self.call(
            lambda target: target.cells.Step(request, timeout=self._patience.reply)
        )
        opened, reply = answer.opened, answer.reply
        now = replace(
            point,
            model=opened.model or point.model,
            version=opened.version or point.version,
            step=reply.step,
            h=reply.h,
            durable_step=max(point.durable_step, reply.durable_step),
            undurable=(),
            epoch=reply.epoch or opened.epoch,
            store_id=opened.store_id or point.store_id,
            incarnation=opened.incarnation or point.incarnation,
        )
        return Reply.of(reply, opened.outputs), now

    async def models(self) -> list[Model]:
        """What the replicas serve."""
        request = model_service_pb2.ListModelsRequest()
        answer: model_service_pb2.ListModelsResponse = await self.call(
            lambda target: target.models.ListModels(request, timeout=self._patience.open)
        )
        return [Model.of(told) for told in answer.models]

    async def model(self, name: str, version: str = "") -> Model:
        """One model; ModelUnknown if there is none of this name."""
        request = model_service_pb2.GetModelRequest(name=name, version=version)
        answer: model_service_pb2.GetModelResponse = await self.call(
            lambda target: target.models.GetModel(request, timeout=self._patience.open)
        )
        return Model.of(answer.model)

    async def call(self, rpc: Callable[[Target], Awaitable[_Answer]]) -> _Answer:
        """Make a unary call that may be repeated: on each replica in turn, with backoff, until `give_up_after`."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async for attempt in retrying(len(self._targets), lambda: clock() - began > self._patience.give_up):
                with attempt:
                    return await self._attempt(rpc)
        except CellwireError as error:
            failure = final(error, self._patience)
            raise failure from failure.__cause__
        raise AssertionError("an attempt returns or raises")

    async def _attempt(self, rpc: Callable[[Target], Awaitable[_Answer]]) -> _Answer:
        turn = self._turn
        try:
            return await rpc(self._targets[turn])
        except grpc.aio.AioRpcError as error:
            failure = from_rpc(error.code(), error.details(), tuple(error.trailing_metadata() or ()))
            if failure.remedy is Remedy.ELSEWHERE and turn == self._turn:  # calls beside this one moved on already
                self._turn += 1
            raise failure from None
