"""Two replicas of the fake, which share a memory; and one real replica for all tests that break nothing."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from cellwire.client import Client
from models import catalogue
from tests.access import users
from tests.cellwire.fake import FakeReplica, Memory
from tests.cellwire.sharing import SharingClient
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


@pytest.fixture(params=[Client, SharingClient], ids=["own", "shared"])
def client_kind(request: pytest.FixtureRequest) -> type[Client]:
    """A client with its sessions on streams of their own, then on shared ones."""
    chosen: type[Client] = request.param
    return chosen


@pytest.fixture
async def client(fakes: tuple[FakeReplica, FakeReplica], client_kind: type[Client]) -> AsyncIterator[Client]:
    """A client of both, impatient enough for tests, and not so much that a busy machine counts as a dead one."""
    async with client_kind([fake.target for fake in fakes], reply_timeout=2.0, give_up_after=20.0) as client:
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
