"""A primary that moves, and sentinels that do not all know."""

import asyncio
from collections.abc import Iterator

import pytest

from cellwire.cli.children import Children
from service.store.call import Unanswered
from service.store.store import Store
from tests.access import PASSWORD, SERVICE_USER
from tests.conftest import STORES, store_program
from tests.scripted import Held
from tests.stored import advanced, claimed, store_of
from tests.topologies import HOST, SERVICE, Sentinel, SentinelStore
from tests.waiting import until

SESSIONS = 8


@pytest.fixture(params=STORES)
def watched(request: pytest.FixtureRequest, children: Children) -> Iterator[SentinelStore]:
    with SentinelStore(children, store_program(request.param)) as store:
        yield store


class Traffic:
    """Sessions that commit without end; what is answered is held by a replica, too."""

    def __init__(self, store: Store, sessions: list[Held]) -> None:
        self._store = store
        self.sessions = sessions
        self.rounds = 0

    async def run(self) -> None:
        while True:
            self.sessions = await advanced(self._store, self.sessions, self.rounds, replicas=1)
            self.rounds += 1

    async def further(self, running: "asyncio.Task[None]") -> None:
        """Returns after some more rounds."""
        target = self.rounds + 5
        await until(lambda: running.done() or self.rounds >= target, "commits")
        if running.done():
            await running


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_commits_go_on_at_the_new_primary(watched: SentinelStore, how: str) -> None:
    async with store_of(watched.url) as store:
        # all replicas have them: which one takes over is not the matter here
        traffic = Traffic(store, await advanced(store, await claimed(store, SESSIONS), replicas=2))
        old = await asyncio.to_thread(watched.kill_primary if how == "killed" else watched.pause_primary)
        running = asyncio.create_task(traffic.run())
        try:
            new = await asyncio.to_thread(watched.wait_failover)
            await traffic.further(running)
            if how == "killed":
                await asyncio.to_thread(watched.restart, old)
            else:
                await asyncio.to_thread(old.resume)
                await asyncio.to_thread(watched.wait_ready)
            await traffic.further(running)
        finally:
            running.cancel()
            await asyncio.wait([running])
        keys = [session.owner.key.decode() for session in traffic.sessions]
        steps = {int(new.ask("HGET", key, "n")) for key in keys}
        assert steps <= {traffic.rounds + 1, traffic.rounds + 2}
        await store.check()
        assert store.condition.fault is None


async def test_a_switch_that_nobody_announced_is_found(watched: SentinelStore) -> None:
    async with store_of(watched.url) as store:
        sessions = await claimed(store, SESSIONS, replicas=2)
        old = watched.primary()
        await asyncio.to_thread(watched.sentinels[0].ask, "SENTINEL", "FAILOVER", SERVICE)
        sessions = await advanced(store, sessions)
        await until(lambda: watched.primary() is not old, "the switch")
        await asyncio.to_thread(watched.wait_ready)
        sessions = await advanced(store, sessions, replicas=2)
        assert all(watched.primary().ask("HGET", session.owner.key.decode(), "n") == "2" for session in sessions)


async def test_a_primary_that_was_demoted_behind_its_clients_is_left(children: Children) -> None:
    """The connection stays, its node says READONLY: the sentinels are asked again."""
    with SentinelStore(children, sentinels=1, replicas=1, down_after=60.0) as watched:
        old, (new,), (sentinel,) = watched.primary(), watched.replicas(), watched.sentinels
        async with store_of(watched.url) as store:
            sessions = await advanced(store, await claimed(store, SESSIONS), replicas=1)
            sentinel.ask("SENTINEL", "REMOVE", SERVICE)
            new.ask("REPLICAOF", "NO", "ONE")
            old.ask("REPLICAOF", HOST, new.port)
            committing = asyncio.create_task(advanced(store, sessions))
            sentinel.ask("SENTINEL", "MONITOR", SERVICE, HOST, new.port, 1)
            await committing
            assert new.ask("HGET", sessions[0].owner.key.decode(), "n") == "2"


async def test_one_sentinel_is_enough(watched: SentinelStore) -> None:
    watched.sentinels[0].kill()
    watched.sentinels[1].pause()
    async with store_of(watched.url) as store:
        await advanced(store, await claimed(store, 1))


async def test_sentinels_may_want_the_credentials_too(children: Children) -> None:
    with SentinelStore(children, sentinels=1, replicas=1, down_after=60.0) as watched:
        (sentinel,) = watched.sentinels
        sentinel.ask("ACL", "SETUSER", SERVICE_USER, "on", f">{PASSWORD}", "+@all", "&*")
        sentinel.ask("ACL", "SETUSER", "default", "off")
        async with store_of(watched.url) as store:
            await advanced(store, await claimed(store, 1))


async def test_a_sentinel_that_names_a_replica_is_not_believed(watched: SentinelStore, children: Children) -> None:
    replica = watched.replicas()[0]
    with Sentinel(children, None, replica, 1, 60.0, None) as liar:
        everybody = watched.url.replace("://", f"://{liar.address},")
        for _ in range(5):
            async with store_of(everybody) as store:
                await advanced(store, await claimed(store, 1))
        async with store_of(f"redis+sentinel://{liar.address}/{SERVICE}", deadline=0.5) as misled:
            (told,) = await misled.peek(["s0"])
            assert isinstance(told, Unanswered)
