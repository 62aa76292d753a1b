"""Real replicas on a real store, for tests: in this process or as processes of their own."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

from cellwire.cli.children import Children, stop
from cellwire.v1 import cell_service_pb2 as pb
from cellwire.v1 import cell_service_pb2_grpc, resume_pb2, tensor_pb2
from models import cells
from service.server import Server
from service.settings import load
from service.tensors import WIRE_TYPES
from tests.access import as_service
from tests.waiting import LONGEST

START_SECONDS = 60.0


def has_ipv6() -> bool:
    """Of loopback."""
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


@dataclass(frozen=True)
class Place:
    """Where a test's replicas keep and find things; the tenant is the test's own, so nothing is ever flushed."""

    store_url: str
    """As an administrator: for the test's own eyes and hands."""
    tenant: str
    repositories: tuple[Path, ...]

    @property
    def service_url(self) -> str:
        """What replicas are given: with the service's user and its rights."""
        return as_service(self.store_url)

    def environment(self, **settings: object) -> dict[str, str]:
        """CELLWIRE_* for a replica in a process of its own."""
        values = {
            "store_url": self.service_url,
            "tenant": self.tenant,
            "models": os.pathsep.join(map(str, self.repositories)),
            "port": 0,
            "admin_port": 0,
            **settings,
        }
        return {f"CELLWIRE_{name.upper()}": str(value) for name, value in values.items()}


def small_models(root: Path) -> Path:
    """A repository with `checker` (int64, non-commutative) and `lstm` (16 hidden, 4 in, 2 out), made at `root`."""
    lstm = cells.build(cells.draw("lstm", 4, 16, outputs=2, seed=7))
    for name, model in (("checker", cells.checker()), ("lstm", lstm)):
        version = root / name / "1"
        version.mkdir(parents=True)
        onnx.save(model, version / "model.onnx")
        (root / name / "model.yaml").write_text("{}\n")
    return root


@asynccontextmanager
async def replica(place: Place, **settings: object) -> AsyncIterator[Server]:
    """A replica in this process."""
    values: dict[str, object] = {
        "store_url": place.service_url,
        "tenant": place.tenant,
        "models": place.repositories,
        "port": 0,
        "admin_port": 0,
        **settings,
    }
    async with Server(load(**values)) as server:
        yield server


class ReplicaProcess:
    """A replica in a process of its own."""

    def __init__(self, children: Children, place: Place, directory: Path, name: str, **settings: object) -> None:
        self._port_file = directory / f"{name}.port"
        self._port_file.unlink(missing_ok=True)
        self.log = directory / f"{name}.log"
        environment = place.environment(port_file=self._port_file, **settings)
        self.child: Popen[bytes] = children.start([sys.executable, "-m", "service"], log=self.log, env=environment)

    def target(self) -> str:
        """Its address, once it serves."""
        deadline = time.monotonic() + START_SECONDS
        while not (self._port_file.exists() and self._port_file.read_text().endswith("\n")):
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the replica did not start:\n{self.log.read_text()}")
            time.sleep(0.01)
        return f"127.0.0.1:{int(self._port_file.read_text())}"

    def memory(self) -> int:
        """Bytes that are resident."""
        pages = int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """How many are open."""
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()
        self.child.wait()

    def terminate(self) -> int:
        """SIGTERM: its exit status."""
        return stop(self.child, grace=40.0)


@dataclass(frozen=True)
class Fault:
    """A google.rpc.Status, taken apart."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: tuple[str, ...]
    retry_seconds: float | None
    position: resume_pb2.Position | None
    resource: str | None


def fault(status: Status) -> Fault:
    """Takes a status apart; every one of ours has a reason of our domain."""
    info, bad, retry, resource, position = ErrorInfo(), BadRequest(), RetryInfo(), ResourceInfo(), resume_pb2.Position()
    found = {
        message.DESCRIPTOR.name
        for detail in status.details
        for message in (info, bad, retry, resource, position)
        if detail.Unpack(message)
    }
    assert info.domain == "cellwire"
    return Fault(
        code=next(code for code in grpc.StatusCode if code.value[0] == status.code),
        reason=info.reason,
        message=status.message,
        fields=tuple(violation.field for violation in bad.field_violations),
        retry_seconds=retry.retry_delay.ToMilliseconds() / 1000 if "RetryInfo" in found else None,
        position=position if "Position" in found else None,
        resource=resource.resource_name if "ResourceInfo" in found else None,
    )


def fault_of(error: grpc.aio.AioRpcError) -> Fault:
    """The status in the trailing metadata of a failed RPC."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    return fault(Status.FromString(details))


def tensor(array: np.ndarray, name: str = "") -> tensor_pb2.Tensor:
    """An array as it goes over the wire."""
    dtype = WIRE_TYPES[array.dtype]
    return tensor_pb2.Tensor(name=name, dtype=dtype, shape=array.shape, data=np.ascontiguousarray(array).tobytes())


def arrays(outputs: tensor_pb2.Outputs) -> dict[str, np.ndarray]:
    """The outputs of a reply by name."""
    return {
        t.name: np.frombuffer(t.data, tensor_pb2.DataType.Name(t.dtype)[10:].lower()).reshape(t.shape)
        for t in outputs.tensors
    }


def timestep(step: int, *inputs: np.ndarray, timesteps: int = 0) -> pb.Timestep:
    """A Timestep with its inputs in the model's order."""
    return pb.Timestep(step=step, timesteps=timesteps, inputs=[tensor(array) for array in inputs])


class WireStream:
    """One Stream RPC, message by message, with nothing done for the test behind its back."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call = self._begin(channel)
        # where a write meets the end of the stream, only an iterator still gives what the server had sent before
        self._responses = aiter(self.call)

    def _begin(self, channel: grpc.aio.Channel) -> Any:
        return cell_service_pb2_grpc.CellServiceStub(channel).Stream()

    async def ask(self, request: pb.StreamRequest) -> pb.StreamResponse:
        """Sends a message and reads one; grpc.aio.AioRpcError when the stream ended instead."""
        await self.send(request)
        return await self.read()

    async def send(self, request: pb.StreamRequest) -> None:
        """Sends a message; whoever reads learns whether the stream had ended."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.call.write(request)

    async def read(self) -> pb.StreamResponse:
        """The next message; grpc.aio.AioRpcError when the stream ended with an error, EOFError when without."""
        try:
            response = await anext(self._responses)
        except StopAsyncIteration:
            raise EOFError from None
        assert isinstance(response, pb.StreamResponse)
        return response

    async def open(self, session_id: str = "s", model: str = "checker", **fields: object) -> pb.Opened:
        """Opens a session: what the server told."""
        request = pb.Open(session_id=session_id, model=model, **fields)  # type: ignore[arg-type]
        response = await self.ask(pb.StreamRequest(open=request))
        assert response.WhichOneof("kind") == "opened", response
        return response.opened

    async def step(self, step: int, *inputs: np.ndarray, timesteps: int = 0) -> pb.StreamResponse:
        """Sends a timestep and reads the answer: a reply, a refusal, a notice."""
        return await self.ask(pb.StreamRequest(timestep=timestep(step, *inputs, timesteps=timesteps)))

    async def replied(self, step: int, *inputs: np.ndarray, timesteps: int = 0) -> pb.Reply:
        """As `step`, when only a reply is right."""
        response = await self.step(step, *inputs, timesteps=timesteps)
        assert response.WhichOneof("kind") == "reply", response
        return response.reply

    async def refused(self, request: pb.StreamRequest) -> Fault:
        """Sends a message that must be refused in band."""
        response = await self.ask(request)
        assert response.WhichOneof("kind") == "refused", response
        return fault(response.refused.status)

    async def ended(self) -> Fault:
        """Reads what is left: the fault that ended the stream, which its last notice told too."""
        notice = None
        try:
            async with asyncio.timeout(LONGEST):
                while True:
                    response = await self.read()
                    if response.WhichOneof("kind") == "notice":
                        notice = fault(response.notice.status)
        except grpc.aio.AioRpcError as error:
            told = fault_of(error)
        assert notice in (None, told)
        return told

    async def close(self) -> None:
        """Half-closes and waits for the end."""
        await self.call.done_writing()
        async for _ in self._responses:
            pass


async def open_fault(channel: grpc.aio.Channel, **fields: object) -> Fault:
    """The fault that an Open is answered with, instead of an Opened."""
    try:
        response = await WireStream(channel).ask(pb.StreamRequest(open=pb.Open(**fields)))  # type: ignore[arg-type]
    except grpc.aio.AioRpcError as error:
        return fault_of(error)
    raise AssertionError(response)


def number(value: int) -> np.ndarray:
    """An input of the checker model."""
    return np.array([value], np.int64)
