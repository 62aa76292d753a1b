"""Talks with a replica: a stream a session, many sessions a stream, single calls."""

import random

from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from benchmarks.client.protobuf import field, varint
from benchmarks.client.talk import Refused, Shape, Talk, WrongAnswer
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import tensor_pb2


def refused(step: int, status: Status) -> Refused:
    """With the time that the server told."""
    retry = RetryInfo()
    told = any(detail.Unpack(retry) for detail in status.details)
    return Refused(step, status.message, retry.retry_delay.ToMilliseconds() / 1000 if told else 0.0)


class CellwireStream(Talk):
    """A session of its own, numbered."""

    path, unary = "/cellwire.v1.CellService/Stream", False

    def __init__(self, name: str, shape: Shape) -> None:
        self.name, self._shape = name, shape
        self.steps = shape.message_timesteps
        axis = [shape.timesteps] if shape.timesteps else []
        rows = zip(shape.inputs, shape.rows(), strict=True)
        self._tail = pb.Timestep(
            timesteps=shape.timesteps,
            inputs=[
                tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[*axis, *dims], data=row * self.steps)
                for (_, dims), row in rows
            ],
        ).SerializeToString()

    def open(self) -> pb.Open:
        """The session, as it is opened."""
        mode = pb.WRITE_MODE_WRITE_BEHIND if self._shape.write_behind else pb.WRITE_MODE_WRITE_THROUGH
        return pb.Open(session_id=self.name, model=self._shape.model, write_mode=mode)

    def opening(self) -> bytes | None:
        return pb.StreamRequest(open=self.open()).SerializeToString()

    def opened(self, answer: bytes) -> bool:
        if not pb.StreamResponse.FromString(answer).HasField("opened"):
            raise WrongAnswer("the session was not opened")
        return True

    def timestep(self, number: int) -> bytes:
        """A Timestep: its number comes first."""
        return b"\x08" + varint((number - 1) * self.steps + 1) + self._tail

    def message(self, number: int) -> bytes:
        body = self.timestep(number)
        return b"\x12" + varint(len(body)) + body

    def complete(self, answer: bytes, number: int) -> int | None:
        number_at = 2 if answer[1] < 0x80 else 3
        if answer[0] == 0x12 and answer.startswith(b"\x08" + varint(number * self.steps), number_at):
            return self.steps
        response = pb.StreamResponse.FromString(answer)
        if response.WhichOneof("kind") == "reply" and response.reply.step == number * self.steps:
            return self.steps
        if response.WhichOneof("kind") == "refused":
            raise refused(response.refused.step, response.refused.status)
        raise WrongAnswer(f"{response.WhichOneof('kind')} instead of the reply to step {number}")

    def closing(self, number: int) -> bytes | None:
        return pb.StreamRequest(close=pb.Close(step=number * self.steps, keep=self._shape.keep)).SerializeToString()


class CellwireUnary(CellwireStream):
    """A session without a stream: the newest epoch goes along with each step, as the client library has it."""

    path, unary = "/cellwire.v1.CellService/Step", True

    def __init__(self, name: str, shape: Shape) -> None:
        super().__init__(name, shape)
        self._token = random.randbytes(16)
        self._epoch = 0

    def message(self, number: int) -> bytes:
        mode = pb.OPEN_MODE_RESUME if self._epoch else pb.OPEN_MODE_CREATE
        opening = pb.Open(
            session_id=self.name,
            create_token=self._token,
            mode=mode,
            model=self._shape.model,
            found_epoch=self._epoch,
        )
        return field(1, opening.SerializeToString()) + field(2, self.timestep(number))

    def complete(self, answer: bytes, number: int) -> int | None:
        response = pb.StepResponse.FromString(answer)
        if response.reply.step != number * self.steps:
            raise WrongAnswer(f"{response.reply.step} instead of the reply to step {number}")
        self._epoch = response.reply.epoch or response.opened.epoch
        return self.steps


class CellwireMany(Talk):
    """Many sessions on one stream, a timestep of each in every message."""

    path, unary = "/cellwire.v1.CellService/StreamMany", False

    def __init__(self, name: str, shape: Shape) -> None:
        self._each = each = shape.message_timesteps
        self._handles = list(range(1, shape.sessions + 1))
        one = [CellwireStream(f"{name}.{handle}", shape) for handle in self._handles]
        self._opens = [
            pb.HandleOpen(handle=handle, open=talk.open()) for handle, talk in zip(self._handles, one, strict=True)
        ]
        axes = [shape.sessions, *([shape.timesteps] if shape.timesteps else [])]
        rows = zip(shape.inputs, shape.rows(), strict=True)
        self._columns = pb.TimestepColumns(
            handles=self._handles,
            timesteps=shape.timesteps,
            inputs=[
                pb.Column(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[*axes, *dims], data=row * shape.sessions * each)
                for (_, dims), row in rows
            ],
        ).SerializeToString()
        self._last = [0] * shape.sessions
        """The last step of each."""
        self._open = self._answered = self._refused = 0

    def opening(self) -> bytes | None:
        return pb.StreamManyRequest(opens=self._opens).SerializeToString()

    def opened(self, answer: bytes) -> bool:
        response = pb.StreamManyResponse.FromString(answer)
        if response.refused or not response.opened:
            raise WrongAnswer("a session was not opened")
        self._open += len(response.opened)
        return self._open == len(self._handles)

    def message(self, number: int) -> bytes:
        steps = b"".join([varint(last + 1) for last in self._last])
        return field(2, self._columns + field(2, steps))

    def complete(self, answer: bytes, number: int) -> int | None:
        """A session that was refused goes on with the same step in the next message."""
        response = pb.StreamManyResponse.FromString(answer)
        for columns in response.replies:
            for handle, step in zip(columns.handles, columns.steps, strict=True):
                self._last[handle - 1] += self._each
                if step != self._last[handle - 1]:
                    raise WrongAnswer(f"step {step} instead of {self._last[handle - 1]}")
            self._answered += len(columns.handles)
        for refusal in response.refused:
            if refusal.ended:
                raise WrongAnswer(refusal.status.message)
        self._refused += len(response.refused)
        if self._answered + self._refused < len(self._handles):
            return None
        answered, self.refused, self._answered, self._refused = self._answered, self._refused, 0, 0
        return answered * self._each
