"""A service on every form of store: streams live through the death of the primary that holds them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cellwire.cli.children import Children
from cellwire.v1 import session_service_pb2, session_service_pb2_grpc
from models.cells import checked
from service.store.keys import session_key
from tests.conftest import STORES, store_program
from tests.harness import Place, WireStream, arrays, number, replica
from tests.topologies import ClusterStore, SentinelStore

STREAMS = 12
"""Enough for every primary of a cluster to have some."""


@pytest.fixture(params=[(form, kind) for form in ("sentinel", "cluster") for kind in STORES])
def stores(request: pytest.FixtureRequest, children: Children) -> Iterator[SentinelStore | ClusterStore]:
    """One replica a primary, which then is the one that takes over."""
    form, kind = request.param
    program = store_program(kind)
    with (
        SentinelStore(children, program, replicas=1) if form == "sentinel" else ClusterStore(children, program) as store
    ):
        yield store


def fail_over(store: SentinelStore | ClusterStore, key: str) -> None:
    """The primary of a key dies, its replica takes over, and then it comes back as a replica."""
    if isinstance(store, SentinelStore):
        old = store.kill_primary()
        store.wait_failover()
        store.restart(old)
    else:
        dead = store.owner_of(key)
        store.wait_failover(store.kill(dead))
        store.restart(dead)


async def test_streams_live_through_a_failover(stores: SentinelStore | ClusterStore, test_models: Path) -> None:
    place = Place(stores.url, "t", (test_models,))
    async with (
        replica(place, commit_deadline=30.0, replicas=1) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        streams = [WireStream(channel) for _ in range(STREAMS)]
        await asyncio.gather(*(stream.open(f"s{index}") for index, stream in enumerate(streams)))
        await asyncio.gather(*(stream.replied(1, number(7)) for stream in streams))
        failing = asyncio.create_task(asyncio.to_thread(fail_over, stores, session_key("t", "s0").decode()))
        step = 1
        while not failing.done() or step < 3:
            step += 1
            replies = await asyncio.gather(*(stream.replied(step, number(7)) for stream in streams))
            assert {(reply.step, reply.durable_step, reply.degraded) for reply in replies} == {(step, step, False)}
            assert {int(arrays(reply.outputs)["y"][0]) for reply in replies} == {checked([7] * step)[-1]}
        await failing
        listing = session_service_pb2_grpc.SessionServiceStub(channel)
        listed: set[tuple[str, int]] = set()
        token, pages = "", 0
        while token or not pages:
            page = await listing.ListSessions(session_service_pb2.ListSessionsRequest(page_token=token, page_size=5))
            listed |= {(session.session_id, session.step) for session in page.sessions}
            token, pages = page.next_page_token, pages + 1
        assert listed == {(f"s{index}", step) for index in range(STREAMS)}
        for stream in streams:
            await stream.close()
