"""A replica whose model runs while a gate is open, to look at what waits before it."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cellwire.v1 import cell_service_pb2 as pb
from models import cells
from service.admission import Rate
from service.cells import LoadedCell
from service.model.cell import Cell
from service.model.repository import Repository
from service.server import Server
from tests.harness import WireStream, number, timestep
from tests.waiting import LONGEST, until
from tests.zoo import graph, write

RUN_SECONDS = 0.05
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535))
"""Of a client whose library takes little of what the client does not read."""


def held_models(root: Path) -> Path:
    """`checker`, the same as `held` with one session a run, and `wide`, whose replies have 8 KiB."""
    write(root, cells.checker(), name="checker")
    write(root, cells.checker(), "max_batch: 1\n", name="held")
    wide = graph(
        "(float[batch,1] x, float[batch,1] state) => (float[batch,2048] y, float[batch,1] state_out)",
        "size = Constant<value = int64[2] {1, 2048}>() y = Expand(x, size) state_out = Add(x, state)",
    )
    write(root, wide, name="wide")
    return root


class HeldCell(Cell):
    """A real cell that says it takes long, and does as long as its gate is shut."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.gate = threading.Event()
        self.gate.set()

    def run(self, work: Any) -> Any:
        self.gate.wait(LONGEST)
        return super().run(work)

    def seconds(self, batch: int) -> float:
        return RUN_SECONDS


class Held:
    """A replica whose model `held` runs while its gate is open. Four of its timesteps are admitted."""

    def __init__(self, server: Server, cell: HeldCell, loaded: LoadedCell) -> None:
        self.server = server
        self.gate = cell.gate
        self.loaded = loaded

    @property
    def in_flight(self) -> int:
        return self.loaded.admission.in_flight

    async def fill(self, streams: list[WireStream], priority: int = 0) -> None:
        """Shuts the gate; each stream sends its first timestep."""
        self.gate.clear()
        for at, stream in enumerate(streams, 1):
            message = timestep(1, number(at))
            message.priority = priority
            await stream.send(pb.StreamRequest(timestep=message))
            await until(lambda at=at: self.in_flight == at, f"{at} in flight")  # type: ignore[misc]


@asynccontextmanager
async def held_in(server: Server, models: Path) -> AsyncIterator[Held]:
    """The replica with its model `held`, of one session a run, behind a gate that is open."""
    cell = HeldCell(*Repository([models]).open("held", "1"))
    sound = server.cells._loaded["held", "1"]
    async with LoadedCell(cell, RUN_SECONDS, Rate(0)) as loaded:
        server.cells._loaded["held", "1"] = loaded
        yield Held(server, cell, loaded)
        cell.gate.set()
        server.cells._loaded["held", "1"] = sound
