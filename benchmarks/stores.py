"""The stores of a run, beside the client: where they are, what they have done, what they hold."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from redis import Redis

from benchmarks import processes
from benchmarks.servers import CLIENT_CORE
from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore


@dataclass(frozen=True)
class Usage:
    """What a store has done and what it holds."""

    moved: int
    """Bytes in and out since it started."""
    memory: int
    """Bytes."""


class StoreLike(Protocol):
    """What is measured of a store."""

    @property
    def url(self) -> str:
        """For replicas."""
        ...

    def pids(self) -> Sequence[int]:
        """Its processes."""
        ...

    def usage(self) -> Usage:
        """Of all of them."""
        ...


class OneStore:
    """The embedded store as workloads see it."""

    def __init__(self, store: EmbeddedStore, url: str | None = None) -> None:
        self.embedded = store
        self.url = url or store.url

    def pids(self) -> Sequence[int]:
        """Its process."""
        return [self.embedded.pid]

    def usage(self) -> Usage:
        """Of its process."""
        return usage(self.embedded)


def usage(store: EmbeddedStore) -> Usage:
    """Of a running store."""
    with Redis(unix_socket_path=str(store.socket)) as client:
        told = client.info()
    moved = int(told["total_net_input_bytes"]) + int(told["total_net_output_bytes"])
    return Usage(moved, int(told["used_memory"]))


@contextmanager
def store_on_client_core(
    children: Children, fsync: str = "everysec", options: Mapping[str, str] | None = None
) -> Iterator[OneStore]:
    """A store beside the client."""
    with processes.on_cores(CLIENT_CORE):
        store = EmbeddedStore(children, fsync=fsync, options=options)
        store.__enter__()
    try:
        yield OneStore(store)
    finally:
        store.__exit__(None, None, None)
