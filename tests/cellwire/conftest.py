"""Two replicas of the fake, which share a memory; and one real replica for all tests that break nothing."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from cellwire.client import Client
from cellwire.session import Session
from cellwire.trunk import SharedStreams
from models import catalogue
from tests.access import users
from tests.cellwire.fake import FakeReplica, Memory
from tests.harness import Place, ReplicaProcess


@pytest.fixture
def memory() -> Memory:
    """Sessions and faults."""
    return Memory()


@pytest.fixture
async def fakes(memory: Memory) -> AsyncIterator[tuple[FakeReplica, FakeReplica]]:
    """Two replicas."""
    async with FakeReplica(memory) as first, FakeReplica(memory) as second:
        yield first, second


class SharingClient(Client):
    """A client whose sessions share streams."""

    def __init__(self, *targets: Any, **options: Any) -> None:
        super().__init__(*targets, **options)
        self._shared = SharedStreams()

    def session(self, *session_id: Any, **options: Any) -> Session:
        return super().session(*session_id, dialling=self._shared, **options)

    async def close(self) -> None:
        await self._shared.end()
        await super().close()


@pytest.fixture(params=[Client, SharingClient], ids=["own", "shared"])
async def client(fakes: tuple[FakeReplica, FakeReplica], request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A client of both, impatient enough for tests; its sessions on streams of their own, then on shared ones."""
    async with request.param([fake.target for fake in fakes], reply_timeout=0.3, give_up_after=20.0) as client:
        yield client


@pytest.fixture(scope="session")
def target(
    children: Children, test_models: Path, models_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A replica with the test models, the speech model and the forecaster, which no test may stop."""
    with EmbeddedStore(children, users=users()) as store:
        place = Place(store.url, "shared", (test_models, models_cache, catalogue.TRAINED))
        folder = tmp_path_factory.mktemp("replica")
        yield ReplicaProcess(children, place, folder, "shared", load="checker,silero_vad,water_flow").target()
