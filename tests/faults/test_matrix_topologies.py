"""Faults of stores of many nodes, under clients that go on. The numbers are those of docs/promise.md."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from cellwire.cli.children import Children
from service.store.keys import session_key
from tests.faults.scene import Stage, staged
from tests.topologies import ClusterStore, Node, Sentinel, SentinelStore
from tests.waiting import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


DEEDS = ("+sdown", "+promoted-slave", "+switch-master", "+convert-to-slave")
"""Of sentinels, about which a store may forget what it acknowledged."""


@asynccontextmanager
async def written_down(sentinels: Sequence[Sentinel], on: Stage) -> AsyncIterator[None]:
    """What the sentinels do is put into the history: on a slow machine they fail over unasked, too."""

    async def listen(client: "Redis") -> None:
        async with client.pubsub() as channel:
            await channel.subscribe(*DEEDS)
            async for message in channel.listen():
                if message["type"] == "message":
                    on.may_lose(f"{message['channel'].decode()} {message['data'].decode()}")

    clients = [Redis.from_url(sentinel.url) for sentinel in sentinels]
    listening = [asyncio.create_task(listen(client)) for client in clients]
    try:
        yield
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        for client in clients:
            await client.aclose()


async def test_30_a_failover_by_sentinel_under_load(test_models: Path, tmp_path: Path, children: Children) -> None:
    with SentinelStore(children) as store:
        async with staged(test_models, tmp_path, children, store, direct=True) as on, written_down(store.sentinels, on):
            for _ in range(2):
                with on.losing("failover"):
                    killed = await asyncio.to_thread(store.kill_primary)
                    await asyncio.to_thread(store.wait_failover)
                await on.answered(longest=60.0)
                await asyncio.to_thread(store.restart, killed)


async def test_31_a_primary_that_wakes_and_believes_to_be_one_still(
    test_models: Path, tmp_path: Path, children: Children
) -> None:
    with SentinelStore(children) as store:
        async with staged(test_models, tmp_path, children, store, direct=True) as on, written_down(store.sentinels, on):
            with on.losing("failover"):
                woken = await asyncio.to_thread(store.pause_primary)
                await asyncio.to_thread(store.wait_failover)
            await on.answered(longest=60.0)
            with on.losing("old primary wakes"):
                woken.resume()
                await eventually(lambda: _follows(woken), "the old primary to follow the new one")
            await on.answered(longest=60.0)


async def _follows(node: Node) -> bool:
    return bool((await asyncio.to_thread(node.replication))["role"] == "slave")


async def test_32_a_cluster_that_moves_its_slots_under_load(
    test_models: Path, tmp_path: Path, children: Children
) -> None:
    with ClusterStore(children) as store:
        async with staged(test_models, tmp_path, children, store, streams=6, direct=True) as on:
            slot = store.slot(session_key("stage", "stream0").decode())
            for _ in range(3):
                source = await asyncio.to_thread(store.owner, slot)
                target = next(node for node in await asyncio.to_thread(store.primaries) if node is not source)
                await asyncio.to_thread(store.reshard, 200, source, target)
                await on.answered(longest=60.0)
            assert not on.counts()["reported regressions"]


async def test_33_a_cluster_whose_primary_is_displaced_or_dies_under_load(
    test_models: Path, tmp_path: Path, children: Children
) -> None:
    with ClusterStore(children) as store:
        async with staged(test_models, tmp_path, children, store, streams=6, direct=True) as on:
            slot = store.slot(session_key("stage", "stream0").decode())
            for takeover in (False, True):
                primary = await asyncio.to_thread(store.owner, slot)
                with on.losing("failover"):
                    await asyncio.to_thread(partial(store.failover, primary, takeover=takeover))
                await on.answered(longest=60.0)
            killed = await asyncio.to_thread(store.owner, slot)
            with on.losing("failover"):
                promoted = await asyncio.to_thread(store.kill, killed)
                await asyncio.to_thread(store.wait_failover, promoted)
            await on.answered(longest=60.0)
