"""Slots that move, primaries that die: the items of a batch find their way each by itself."""

import asyncio
from collections.abc import Iterator

import pytest

from cellwire.cli.children import Children
from service.store.outcome import Written
from tests.conftest import STORES, store_program
from tests.scripted import Held, claim, held
from tests.stored import advanced, claimed, store_of
from tests.topologies import ClusterNode, ClusterStore

SESSIONS = 24


@pytest.fixture(scope="module", params=STORES)
def shared(request: pytest.FixtureRequest, children: Children) -> Iterator[ClusterStore]:
    """For tests that leave all nodes alive."""
    with ClusterStore(children, store_program(request.param)) as store:
        yield store


@pytest.fixture(params=STORES)
def cluster(request: pytest.FixtureRequest, children: Children) -> Iterator[ClusterStore]:
    with ClusterStore(children, store_program(request.param)) as store:
        yield store


def key_of(session: Held) -> str:
    return session.owner.key.decode()


def another_than(cluster: ClusterStore, node: ClusterNode) -> ClusterNode:
    return next(other for other in cluster.primaries() if other is not node)


async def test_one_batch_goes_to_all_primaries(shared: ClusterStore) -> None:
    async with store_of(shared.url) as store:
        sessions = await claimed(store, SESSIONS)
        assert {shared.owner_of(key_of(session)) for session in sessions} == set(shared.primaries())
        commits = [session.commit() for session in sessions]
        assert await store.write_batch(0, commits) == [Written(1)] * SESSIONS
        # what one lane did, another does not do again
        assert await store.write_batch(1, commits) == [Written(1)] * SESSIONS
        counts = {shared.owner_of(key_of(session)).ask("HGET", key_of(session), "c") for session in sessions}
        assert counts == {"1"}


async def test_scripts_that_some_primaries_forgot_are_loaded_again(shared: ClusterStore) -> None:
    async with store_of(shared.url) as store:
        sessions = await claimed(store, SESSIONS)
        for text in range(3):
            shared.primaries()[text].ask("SCRIPT", "FLUSH")
            sessions = await advanced(store, sessions, text)


async def test_a_slot_that_migrates_is_asked_for_where_its_keys_are(shared: ClusterStore) -> None:
    async with store_of(shared.url) as store:
        # a tag of their own, so that they share a slot
        keys = [store.key("tag")[:-1] + b"}" + b"%d" % number for number in range(3)]
        claims = [claim(key) for key in keys]
        granted = await store.claim_batch(0, claims[:2])
        first, second = [held(item, answer) for item, answer in zip(claims, granted, strict=False)]  # type: ignore[arg-type]
        others = await claimed(store, SESSIONS)
        source = shared.owner_of(key_of(first))
        migration = shared.migrate(shared.slot(key_of(first)), another_than(shared, source))
        migration.begin()
        assert migration.move(1) == 1
        # one of them is at the target and the other is not; a new one is made at the target
        (answer,) = await store.claim_batch(0, claims[2:])
        third = held(claims[2], answer)  # type: ignore[arg-type]
        assert migration.target.ask("CLUSTER", "COUNTKEYSINSLOT", shared.slot(key_of(first))) == 2
        sessions = await advanced(store, [first, second, third, *others], "during")
        migration.finish()
        assert shared.owner_of(key_of(first)) is migration.target
        sessions = await advanced(store, sessions, "after")
        assert all(migration.target.ask("HGET", key_of(session), "n") == "2" for session in sessions[:3])


async def test_the_store_is_known_wherever_its_id_moves(shared: ClusterStore) -> None:
    async with store_of(shared.url) as store:
        await store.check()
        known = store.condition.store_id
        assert known
        replaced: list[bool] = []
        store.on_replaced = lambda: replaced.append(True)
        migration = shared.migrate(shared.slot("cw:store"), another_than(shared, shared.owner_of("cw:store")))
        migration.begin()
        migration.finish()

        async def seen() -> bool:
            await store.check()
            return store.condition.fault is None

        for _ in range(100):
            if await seen():
                break
            await asyncio.sleep(0.05)
        assert (store.condition.fault, store.condition.store_id) == (None, known)
        async with store_of(shared.url) as other:
            await other.check()
            assert other.condition.store_id == known
        assert not replaced


async def test_commits_go_on_while_slots_are_resharded(cluster: ClusterStore) -> None:
    async with store_of(cluster.url) as store:
        sessions = await claimed(store, SESSIONS)
        source = cluster.owner_of(key_of(sessions[0]))
        resharding = asyncio.create_task(asyncio.to_thread(cluster.reshard, 100, source, another_than(cluster, source)))
        rounds = 0
        while not resharding.done() or rounds < 3:
            sessions = await advanced(store, sessions, rounds)
            rounds += 1
        await resharding
        await advanced(store, sessions)


@pytest.mark.parametrize("takeover", [False, True])
async def test_a_primary_that_gave_its_slots_away_is_left(shared: ClusterStore, takeover: bool) -> None:
    async with store_of(shared.url) as store:
        sessions = await advanced(store, await claimed(store, SESSIONS), replicas=1)
        promoted = await asyncio.to_thread(shared.failover, shared.owner_of(key_of(sessions[0])), takeover=takeover)
        await advanced(store, sessions)
        assert promoted.ask("HGET", key_of(sessions[0]), "n") == "2"


async def test_commits_wait_for_the_replica_of_a_dead_primary(cluster: ClusterStore) -> None:
    async with store_of(cluster.url) as store:
        sessions = await advanced(store, await claimed(store, SESSIONS), replicas=1)
        old = cluster.owner_of(key_of(sessions[0]))
        promoted = await asyncio.to_thread(cluster.kill, old)
        committing = asyncio.create_task(advanced(store, sessions))
        await asyncio.to_thread(cluster.wait_failover, promoted)
        sessions = await committing
        assert promoted.ask("HGET", key_of(sessions[0]), "n") == "2"
        await asyncio.to_thread(cluster.restart, old)
        await advanced(store, sessions, replicas=1)
        await store.check()
        assert store.condition.fault is None


async def test_a_primary_that_hangs_stops_only_its_own_lane(children: Children) -> None:
    options = {"cluster-node-timeout": "60000", "cluster-require-full-coverage": "no"}
    with ClusterStore(children, options=options) as cluster:
        async with store_of(cluster.url) as store:
            sessions = await claimed(store, SESSIONS)
            hanging = cluster.owner_of(key_of(sessions[0]))
            lost = [
                session for session in sessions if store.lane(session.owner.key) == store.lane(sessions[0].owner.key)
            ]
            rest = [session for session in sessions if session not in lost]
            assert lost
            assert rest
            hanging.pause()
            waiting = asyncio.create_task(advanced(store, lost))
            for text in range(5):
                rest = await advanced(store, rest, text)
            assert not waiting.done()
            hanging.resume()
            await waiting


async def test_a_cluster_that_is_not_there_yet_is_waited_for(children: Children) -> None:
    cluster = ClusterStore(children)
    async with store_of(cluster.url) as store:
        await store.check()
        assert not store.condition.reachable
        assert store.lanes == len(cluster.nodes)
        claiming = asyncio.create_task(claimed(store, SESSIONS))
        await asyncio.to_thread(cluster.__enter__)
        try:
            await advanced(store, await claiming)
        finally:
            await asyncio.to_thread(cluster.__exit__)
