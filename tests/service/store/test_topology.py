"""What every form of a store must do; who may do it, and over what."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from service.errors import SessionUnknown, StoreUnavailable
from service.store.call import Unanswered
from service.store.endpoint import Access
from service.store.form import topology_of
from service.store.outcome import Written
from service.store.scripts import Seen
from service.store.store import Store
from tests.access import PASSWORD, SERVICE_USER, users
from tests.certificates import Authority
from tests.conftest import STORES, store_program
from tests.scripted import Scripted
from tests.stored import advanced, claimed, store_of
from tests.topologies import ClusterStore, SentinelStore, TlsStore
from tests.waiting import until

SESSIONS = 30
"""Enough for every primary of a cluster to have some."""


@pytest.fixture(scope="module", params=[(form, kind) for form in ("one", "sentinel", "cluster") for kind in STORES])
def url(request: pytest.FixtureRequest, children: Children) -> Iterator[str]:
    form, kind = request.param
    program = store_program(kind)
    if form == "one":
        with EmbeddedStore(children, program=program, users=users()) as store:
            yield store.url
    elif form == "sentinel":
        with SentinelStore(children, program) as watched:
            yield watched.url
    else:
        with ClusterStore(children, program) as cluster:
            yield cluster.url


async def test_sessions_live_in_every_form_of_a_store(url: str) -> None:
    async with store_of(url) as store:
        await store.check()
        assert store.condition.fault is None
        assert store.condition.store_id
        assert store.lanes == (3 if "cluster" in url else 1)
        sessions = await claimed(store, SESSIONS, replicas=0)
        assert {store.lane(session.owner.key) for session in sessions} == set(range(store.lanes))
        for text in ("a", "b"):
            sessions = await advanced(store, sessions, text)
        names = [f"s{number}" for number in range(SESSIONS)]
        seen = await store.peek(names)
        assert [item.step for item in seen if isinstance(item, Seen)] == [2] * SESSIONS
        assert await store.heartbeat_batch([session.heartbeat() for session in sessions]) == [0] * SESSIONS
        assert sorted(await scanned(store)) == sorted(names)
        assert await store.kill("s0", 60.0) == 2
        closing = [session.close() for session in sessions[1:4]]
        for item in closing:
            assert await store.write_batch(store.lane(item.key), [item]) == [Written(2)]
        with pytest.raises(SessionUnknown):
            await store.kill("never", 60.0)


async def scanned(store: Store) -> list[str]:
    names: set[str] = set()
    cursor, pages = 0, 0
    while cursor or not pages:
        cursor, page = await store.scan(cursor, 10)
        names.update(page)
        pages += 1
    return list(names)


async def test_another_replica_meets_the_same_store(url: str) -> None:
    async with store_of(url) as first, store_of(url) as second:
        await first.check()
        await second.check()
        assert first.condition.store_id == second.condition.store_id != b""


# ---- URLs


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://h:1",
        "redis+sentinel:///service",
        "redis+sentinel://h:many/service",
        "redis+cluster://",
        "redis+cluster://h:1,,g:2",
        "redis+cluster://h:1/0",
        "redis+other://h:1",
        "unix+cluster://h:1",
        "redis://h:many",
        "redis://h:1?no_such_option=1",
    ],
)
def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        topology_of(url, Access(1.0))


# ---- users and passwords


@pytest.mark.parametrize(
    ("revoke", "grant"),
    [("-evalsha", "+evalsha"), ("resetkeys", "~cw:*")],
    ids=["command", "keys"],
)
async def test_a_right_that_is_taken_away_is_waited_for(own_store: EmbeddedStore, revoke: str, grant: str) -> None:
    operator = Scripted(own_store.url).redis
    async with store_of(own_store.url) as store, store_of(own_store.url, deadline=0.2) as impatient:
        (session,) = await claimed(store, 1)
        (other,) = await claimed(impatient, 1)
        operator.execute_command("ACL", "SETUSER", SERVICE_USER, revoke)
        (told,) = await impatient.write_batch(0, [other.commit()])
        assert isinstance(told, Unanswered)
        operator.execute_command("ACL", "LOG", "RESET")
        committing = asyncio.create_task(store.write_batch(0, [session.commit()]))
        await until(lambda: committing.done() or operator.execute_command("ACL", "LOG"), "a refusal")
        assert not committing.done()
        operator.execute_command("ACL", "SETUSER", SERVICE_USER, grant)
        assert await committing == [Written(1)]
    operator.close()


async def test_a_right_that_a_script_lacks_is_said_at_once(own_store: EmbeddedStore) -> None:
    operator = Scripted(own_store.url).redis
    async with store_of(own_store.url) as store:
        (session,) = await claimed(store, 1)
        operator.execute_command("ACL", "SETUSER", SERVICE_USER, "-hset")
        (told,) = await store.write_batch(0, [session.commit()])
        assert isinstance(told, StoreUnavailable)
        operator.execute_command("ACL", "SETUSER", SERVICE_USER, "+hset")
        await advanced(store, [session])
    operator.close()


async def test_a_rotated_password_needs_no_restart(own_store: EmbeddedStore, tmp_path: Path) -> None:
    operator = Scripted(own_store.url).redis
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    async with store_of(own_store.url, username=SERVICE_USER, password_file=file) as store:
        sessions = await claimed(store, 1)
        operator.execute_command("ACL", "SETUSER", SERVICE_USER, f"<{PASSWORD}", ">another")
        operator.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        operator.execute_command("ACL", "LOG", "RESET")
        committing = asyncio.create_task(advanced(store, sessions))
        await until(lambda: operator.execute_command("ACL", "LOG"), "a refused connection")
        assert not committing.done()
        file.write_text("another\n")
        await committing
    operator.close()


# ---- TLS


@pytest.mark.parametrize("client_certificates", [False, True])
async def test_a_store_behind_tls(children: Children, client_certificates: bool) -> None:
    program = store_program("redis")
    assert program
    with TlsStore(children, program, client_certificates=client_certificates) as tls:
        user: dict[str, Any] = {"username": SERVICE_USER, "password": PASSWORD}
        known = {**user, "cert": tls.certificate, "key": tls.key}
        async with store_of(tls.url, **known, ca=tls.ca) as store:
            await store.check()
            assert store.condition.fault is None
            await advanced(store, await claimed(store, 1))
        strangers = [{**known, "ca": tls.other_ca}] + [{**user, "ca": tls.ca}] * client_certificates
        for stranger in strangers:
            async with store_of(tls.url, **stranger) as store:
                await store.check()
                assert not store.condition.reachable


@pytest.mark.parametrize("form", [SentinelStore, ClusterStore])
async def test_every_connection_speaks_tls(
    children: Children, tmp_path: Path, form: type[SentinelStore] | type[ClusterStore]
) -> None:
    authority = Authority(tmp_path)
    user: dict[str, Any] = {"username": SERVICE_USER, "password": PASSWORD}
    with form(children, store_program("redis"), tls=authority) as store:
        assert store.url.startswith("rediss+")
        async with store_of(store.url, **user, ca=authority.certificate) as trusting:
            await advanced(trusting, await claimed(trusting, SESSIONS))
        async with store_of(store.url, **user, ca=Authority(tmp_path, "another").certificate) as stranger:
            await stranger.check()
            assert not stranger.condition.reachable
