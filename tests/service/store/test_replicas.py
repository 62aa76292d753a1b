"""Writes that replicas must hold before they are answered: refused or degraded when too few do.

Valkey answers WAIT at once on a connection that has not written, which Redis does not: both are tried.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from cellwire.cli.children import Children
from service.errors import SessionClosed
from service.store.call import Unanswered
from service.store.outcome import Written
from service.store.scripts import Claim, Granted
from service.store.store import Write
from tests.conftest import STORES, store_program
from tests.scripted import claim, new_nonce
from tests.stored import advanced, claimed, store_of
from tests.topologies import ClusterStore, Node, SentinelStore
from tests.waiting import until

PATIENCE = 0.4
"""Seconds; WAIT gets half of it."""


@pytest.fixture(scope="module", params=STORES)
def pair(request: pytest.FixtureRequest, children: Children) -> Iterator[SentinelStore]:
    """A primary and one replica; nobody fails over."""
    with SentinelStore(children, store_program(request.param), replicas=1, sentinels=1, down_after=60.0) as store:
        yield store


@pytest.fixture
def primary(pair: SentinelStore) -> Node:
    return pair.primary()


@pytest.fixture
def replica(pair: SentinelStore) -> Iterator[Node]:
    (replica,) = pair.replicas()
    yield replica
    replica.resume()
    pair.wait_ready()


def calls(primary: Node) -> int:
    """Scripts called so far."""
    return int(primary.ask("INFO", "commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


async def not_answered(calling: "asyncio.Task[Any]", primary: Node) -> None:
    """The call is in doubt: it is sent again and again."""
    target = calls(primary) + 3
    await until(lambda: calling.done() or calls(primary) >= target, "calls")
    assert not calling.done()


async def not_answered_however_often(task: "asyncio.Task[Any]", primary: Node) -> None:
    """It waits for the replica, also when its connection breaks and it is asked for again."""
    for _ in range(2):
        await not_answered(task, primary)
        primary.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def test_a_commit_is_answered_once_a_replica_has_it(primary: Node, replica: Node) -> None:
    async with store_of(primary.url, patience=PATIENCE) as store:
        (session,) = await claimed(store, 1, replicas=1)
        key = session.owner.key.decode()
        replica.pause()
        committing = asyncio.create_task(store.write_batch(0, [session.commit(replicas=1)]))
        # each of these calls but the first is a duplicate, and the one before it was not taken for an answer
        await not_answered(committing, primary)
        assert primary.ask("HGET", key, "n") == "1"
        # on a new connection too, where a call that does not write would have WAIT answered at once
        for _ in range(2):
            primary.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await not_answered(committing, primary)
        replica.resume()
        assert await committing == [Written(1)]
        assert replica.ask("HGET", key, "n") == "1"
        assert primary.ask("HGET", key, "c") == "1"


async def test_a_close_is_answered_once_a_replica_has_it(primary: Node, replica: Node) -> None:
    async with store_of(primary.url, patience=PATIENCE) as store:
        (session,) = await claimed(store, 1, replicas=1)
        replica.pause()
        closing = asyncio.create_task(store.write_batch(0, [session.close()._replace(replicas=1)]))
        await not_answered_however_often(closing, primary)
        replica.resume()
        assert await closing == [Written(0)]
        assert "c" in replica.ask("HGET", session.owner.key.decode(), "f")


async def test_a_close_that_finds_it_closed_is_answered_once_a_replica_has_it(primary: Node, replica: Node) -> None:
    """A client takes that for success, whoever closed."""
    async with store_of(primary.url, patience=PATIENCE) as store:
        (session,) = await claimed(store, 1)
        other = session.close()._replace(owner=session.owner._replace(nonce=new_nonce()), replicas=1)
        replica.pause()
        assert await store.write_batch(0, [session.close()]) == [Written(0)]
        closing = asyncio.create_task(store.write_batch(0, [other]))
        await not_answered_however_often(closing, primary)
        replica.resume()
        (told,) = await closing
        assert isinstance(told, SessionClosed)
        assert "c" in replica.ask("HGET", session.owner.key.decode(), "f")


async def test_an_operators_close_is_answered_once_a_replica_has_it(primary: Node, replica: Node) -> None:
    async with store_of(primary.url, patience=PATIENCE) as store:
        key = store.key("s")
        (granted,) = await store.claim_batch(0, [claim(key, replicas=1)])
        assert isinstance(granted, Granted)
        replica.pause()
        killing = asyncio.create_task(store.kill("s", 60.0, replicas=1))
        await not_answered_however_often(killing, primary)
        replica.resume()
        assert await killing == 0
        assert "c" in replica.ask("HGET", key.decode(), "f")


async def test_a_claim_is_granted_once_a_replica_has_it(primary: Node, replica: Node) -> None:
    async with store_of(primary.url, patience=PATIENCE) as store:
        item = claim(store.key("s"), replicas=1)
        replica.pause()
        claiming = asyncio.create_task(store.claim_batch(0, [item]))
        await not_answered_however_often(claiming, primary)
        replica.resume()
        (granted,) = await claiming
        assert isinstance(granted, Granted)
        assert replica.ask("HGET", item.key.decode(), "e") == str(granted.epoch)


async def test_what_no_replica_holds_by_the_deadline_stays_in_doubt(primary: Node, replica: Node) -> None:
    async with store_of(primary.url, patience=2.0, deadline=2.5) as store:  # the first WAIT ends well within it
        wanting, content = await claimed(store, 2)
        replica.pause()
        writes: list[Write] = [wanting.commit(replicas=1), content.commit()]
        told, written = await store.write_batch(0, writes)
        assert isinstance(told, Unanswered)
        assert written == Written(1)
        replica.resume()
        # it was executed: the same commit finds itself done
        async with store_of(primary.url) as patient:
            assert await patient.write_batch(0, writes) == [Written(1), Written(1)]


async def test_a_store_that_may_degrade_says_so(primary: Node, replica: Node) -> None:
    async with store_of(primary.url, patience=PATIENCE, degrade=True) as store:
        wanting, content, other = await claimed(store, 3, replicas=1)
        assert await store.write_batch(0, [other.commit()]) == [Written(1)]  # the script is there: no call for its sake
        replica.pause()
        before = calls(primary)
        writes: list[Write] = [wanting.commit(replicas=1), content.commit()]
        assert await store.write_batch(0, writes) == [Written(1, degraded=True), Written(1)]
        assert calls(primary) == before + 1
        claims: list[Claim] = [claim(store.key("new"), replicas=1)]
        (granted,) = await store.claim_batch(0, claims)
        assert isinstance(granted, Granted)
        replica.resume()
        wanting = wanting.after(writes[0])  # type: ignore[arg-type]
        await until(lambda: replica.ask("HGET", wanting.owner.key.decode(), "n") == "1", "the replica")
        assert await store.write_batch(0, [wanting.commit(replicas=1)]) == [Written(2)]


async def test_a_refusal_needs_no_replica(primary: Node, replica: Node) -> None:
    async with store_of(primary.url, patience=PATIENCE) as store:
        (session,) = await claimed(store, 1)
        replica.pause()
        again: Any = claim(session.owner.key, incarnation=b"b" * 16, replicas=1)
        (refused,) = await store.claim_batch(0, [again])
        assert not isinstance(refused, Granted | Unanswered)
        assert refused.reason == "SESSION_BUSY"


@pytest.mark.parametrize("kind", STORES)
async def test_each_primary_of_a_cluster_counts_its_own_replicas(children: Children, kind: str) -> None:
    with ClusterStore(children, store_program(kind), options={"cluster-node-timeout": "60000"}) as cluster:
        async with store_of(cluster.url, patience=PATIENCE, degrade=True) as store:
            sessions = await advanced(store, await claimed(store, 24, replicas=1), replicas=1)
            short = cluster.owner_of(sessions[0].owner.key.decode())
            paused = cluster.replica_of(short)
            paused.pause()
            told = await store.write_batch(0, [session.commit(replicas=1) for session in sessions])
            owners = [cluster.owner_of(session.owner.key.decode()) for session in sessions]
            assert told == [Written(2, degraded=owner is short) for owner in owners]
            assert any(owner is not short for owner in owners)
            paused.resume()
