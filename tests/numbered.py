"""A client that keeps to the protocol in plain sight: it numbers its steps, keeps its inputs, and resumes by itself."""

import os
from collections.abc import Callable, Sequence

import grpc
import numpy as np

from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc, resume_pb2
from tests.harness import WireStream, arrays, fault_of, timestep


class Ended(Exception):
    """The server ended the stream."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def ended(error: grpc.aio.AioRpcError) -> Ended:
    """What an RPC's error says; a connection that broke says nothing of ours.

    When the end of a stream meets a write, grpc.aio's client fails the write by itself and drops the server's status.
    """
    if "grpc-status-details-bin" in dict(error.trailing_metadata() or ()):
        return Ended(fault_of(error).reason)
    failed_here = (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "Internal error from Core")
    return Ended("WRITE_FAILED_HERE" if failed_here else "CONNECTION")


class Numbered:
    """One session of a client, whatever connection it rides on. Each message is one timestep of one input."""

    def __init__(self, session_id: str, inputs: Sequence[np.ndarray], model: str = "checker") -> None:
        self.session_id = session_id
        self.model = model
        self.inputs = inputs
        self.token = os.urandom(16)
        self.replies: list[pb.Reply] = []
        """Of steps 1, 2 and so on; none twice."""
        self.replayed = 0
        self.epoch = 0
        self.store_id = b""

    @property
    def received(self) -> int:
        """The last step that was answered."""
        return len(self.replies)

    def outputs(self, name: str = "y") -> list[np.ndarray]:
        """One output of each step."""
        return [arrays(reply.outputs)[name] for reply in self.replies]

    def numbers(self) -> list[int]:
        """What `checker` answered."""
        return [int(y[0]) for y in self.outputs()]

    def open_message(self) -> pb.Open:
        """Opens the session where this client stands."""
        point = None
        if self.replies:
            last = self.replies[-1]
            received = resume_pb2.Checkpoint(step=last.step, h=last.h)
            point = resume_pb2.ResumePoint(received=received, durable_step=last.durable_step, store_id=self.store_id)
        return pb.Open(
            session_id=self.session_id,
            create_token=self.token,
            model=self.model,
            resume_point=point,
            found_epoch=self.epoch,
        )

    def message(self, step: int) -> pb.Timestep:
        """The timestep of this number."""
        return timestep(step, self.inputs[step - 1])

    def take(self, reply: pb.Reply) -> None:
        """The next reply, in order."""
        assert reply.step == self.received + 1
        self.replies.append(reply)
        self.replayed += reply.replayed
        self.epoch = reply.epoch

    async def open(self, channel: grpc.aio.Channel) -> WireStream:
        """A stream that holds the session; a stale epoch is asked again.

        Raises:
            Ended: the open was refused.
        """
        while True:
            stream = WireStream(channel)
            try:
                response = await stream.ask(pb.StreamRequest(open=self.open_message()))
            except grpc.aio.AioRpcError as error:
                refused = ended(error)
                if refused.reason != "STALE_OPEN":
                    raise refused from None
                position = fault_of(error).position
                assert position
                self.epoch = position.epoch
                continue
            assert response.WhichOneof("kind") == "opened", response
            self.epoch, self.store_id = response.opened.epoch, response.opened.store_id
            return stream

    async def ride(
        self, channel: grpc.aio.Channel, last: int, window: int = 4, answered: Callable[[int], None] = lambda step: None
    ) -> None:
        """Opens the session and goes on until this step is answered, with so many messages ahead.

        Raises:
            Ended: the stream ended before.
        """
        stream = await self.open(channel)
        sent = self.received
        try:
            while self.received < last:
                while sent < min(last, self.received + window):
                    sent += 1
                    await stream.send(pb.StreamRequest(timestep=self.message(sent)))
                response = await stream.read()
                if response.WhichOneof("kind") == "notice":
                    continue
                assert response.WhichOneof("kind") == "reply", response
                self.take(response.reply)
                answered(self.received)
            await stream.close()
        except grpc.aio.AioRpcError as error:
            raise ended(error) from None
        finally:
            stream.call.cancel()

    async def call(self, channel: grpc.aio.Channel, step: int) -> pb.Reply:
        """One unary Step; what it tells is not taken."""
        request = pb.StepRequest(open=self.open_message(), timestep=self.message(step))
        response: pb.StepResponse = await cell_service_pb2_grpc.CellServiceStub(channel).Step(request, timeout=20)
        return response.reply
