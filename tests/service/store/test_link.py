"""Calls of scripts over a bad connection: the identical call again, and never another call's answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from cellwire.cli.embedded import EmbeddedStore
from service import failpoints
from service.errors import StoreUnavailable
from service.store.call import Unanswered
from service.store.endpoint import Access
from service.store.form import topology_of
from service.store.link import Link
from service.store.scripts import CLAIM, COMMIT, PEEK, Commit, Granted, Item, Peek, Script, claim_answer
from tests.access import as_service
from tests.proxy import Fault, Proxy, chaos
from tests.scripted import Answer, Held, Scripted, claim, held, new_key
from tests.waiting import until

LOST = (Fault.DROP, Fault.CUT, Fault.STALL, Fault.SHIFT)
"""The call was executed, and its caller cannot know."""
TIMEOUT = 0.1
SOON = 20.0
"""Seconds until a call that must succeed would give up."""


@pytest.fixture
def store(store_url: str) -> Iterator[Scripted]:
    scripted = Scripted(store_url)
    yield scripted
    scripted.redis.close()


@pytest.fixture
async def proxy(store_url: str, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with Proxy(tmp_path, store_url) as proxy:
        yield proxy


@pytest.fixture
async def link(proxy: Proxy) -> AsyncIterator[Link]:
    link = link_to(proxy.url, TIMEOUT)
    yield link
    await link.aclose()


def link_to(url: str, timeout: float) -> Link:
    return Link(topology_of(url, Access(timeout)), "test")


async def called(link: Link, script: Script, items: Sequence[Item], deadline: float) -> list[Answer]:
    """The answers to a call that must get them all."""
    answers: list[Answer] = []
    for told in await link.call(script, items, deadline):
        if isinstance(told, Unanswered):
            raise told
        answers.append(told.answer)
    return answers


def soon() -> float:
    return time.monotonic() + SOON


async def warm(link: Link) -> None:
    """The connection stands and the store has the scripts."""
    for script in (PEEK, COMMIT, CLAIM):
        item = claim(new_key()) if script is CLAIM else Held.commit(nobody()) if script is COMMIT else Peek(new_key())
        await called(link, script, [item], soon())


def nobody() -> Held:
    return held(claim(new_key()), Granted("", 1, 0, b"i" * 16, "", 0, b"h" * 16, 0, b"", b"", b"", ()))


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault.name)
async def test_a_commit_in_doubt_is_sent_again_identically(
    store: Scripted, proxy: Proxy, link: Link, fault: Fault
) -> None:
    session = store.claimed(claim(new_key()))
    await warm(link)
    proxy.requests.clear()
    proxy.strike(fault)
    assert await called(link, COMMIT, [session.commit()], soon()) == [b"DUPLICATE 1"]
    first, second = proxy.requests
    assert first == second


async def test_a_call_that_did_not_reach_the_store_is_sent_again(store: Scripted, proxy: Proxy, link: Link) -> None:
    session = store.claimed(claim(new_key()))
    await warm(link)
    proxy.strike(Fault.CUT_REQUEST, Fault.CUT_REQUEST)
    assert await called(link, COMMIT, [session.commit()], soon()) == [b"OK 1"]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault.name)
async def test_a_claim_in_doubt_is_granted_once(store: Scripted, proxy: Proxy, link: Link, fault: Fault) -> None:
    await warm(link)
    item = claim(new_key())
    proxy.strike(fault)
    (answer,) = await called(link, CLAIM, [item], soon())
    fields = store.fields(item.key)
    assert isinstance(answer, list)
    granted = claim_answer(answer)
    assert isinstance(granted, Granted)
    assert (granted.epoch, granted.displaced_epoch) == (int(fields["e"]), 0)
    assert (granted.step, granted.state, fields["o"]) == (0, item.state, item.nonce)


async def test_a_shifted_answer_closes_the_connection_and_is_given_to_nobody(
    store: Scripted, proxy: Proxy, link: Link
) -> None:
    await warm(link)
    connections = proxy.accepted
    for number in range(5):
        item = claim(new_key(), state=b"the state of session %d" % number)
        proxy.strike(Fault.NONE if number == 0 else Fault.SHIFT)
        (answer,) = await called(link, CLAIM, [item], soon())
        assert isinstance(answer, list)
        granted = claim_answer(answer)
        assert isinstance(granted, Granted)
        assert granted.state == item.state
        # the connection that carried a wrong answer carries no other
        proxy.strike()
        assert await called(link, PEEK, [Peek(new_key())], soon()) == [b"GONE"]
    assert proxy.accepted == connections + 4


async def test_a_late_answer_is_waited_for(store: Scripted, proxy: Proxy) -> None:
    session = store.claimed(claim(new_key()))
    link = link_to(proxy.url, SOON)
    proxy.strike(Fault.DELAY)
    assert await called(link, COMMIT, [session.commit()], soon()) == [b"OK 1"]
    assert proxy.struck == proxy.accepted == 1
    await link.aclose()


async def test_a_cancelled_call_leaves_no_answer_for_the_next(store: Scripted, proxy: Proxy, link: Link) -> None:
    session = store.claimed(claim(new_key()))
    await warm(link)
    proxy.requests.clear()
    proxy.strike(Fault.STALL)
    calling = asyncio.create_task(called(link, COMMIT, [session.commit()], soon()))
    await until(lambda: proxy.requests, "the call")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    other = store.claimed(claim(new_key()))
    assert await called(link, COMMIT, [other.commit(), session.commit()], soon()) in (
        [b"OK 1", b"DUPLICATE 1"],
        [b"OK 1", b"OK 1"],
    )


@pytest.mark.parametrize("seed", range(3))
async def test_sessions_in_a_storm_advance_once_a_commit(store: Scripted, proxy: Proxy, link: Link, seed: int) -> None:
    sessions = [store.claimed(claim(new_key())) for _ in range(8)]
    await warm(link)
    proxy.storm(chaos(seed, 0.3, (Fault.DROP, Fault.CUT, Fault.CUT_REQUEST, Fault.SHIFT, Fault.DELAY)))
    for turn in range(30):
        commits = [session.commit((number, turn)) for number, session in enumerate(sessions)]
        answers = await called(link, COMMIT, commits, soon())
        assert set(answers) <= {b"OK %d" % (turn + 1), b"DUPLICATE %d" % (turn + 1)}
        sessions = [session.after(commit) for session, commit in zip(sessions, commits, strict=True)]
    assert proxy.struck
    for session in sessions:
        fields = store.fields(session.owner.key)
        assert (fields["n"], fields["c"], fields["h"]) == (b"30", b"30", session.h)


async def test_it_gives_up_at_its_deadline(store: Scripted, proxy: Proxy, link: Link) -> None:
    session = store.claimed(claim(new_key()))
    await warm(link)
    proxy.requests.clear()
    proxy.storm(chaos(0, 1.0, [Fault.CUT_REQUEST]))
    with pytest.raises(StoreUnavailable):
        await called(link, COMMIT, [session.commit()], time.monotonic() + 0.3)
    assert len(proxy.requests) > 1
    proxy.strike()
    assert await called(link, COMMIT, [session.commit()], soon()) == [b"OK 1"]


async def test_a_failpoint_puts_a_commit_in_doubt(store: Scripted, proxy: Proxy, link: Link) -> None:
    session = store.claimed(claim(new_key()))
    await warm(link)
    proxy.requests.clear()
    failpoints.arm("after_send=drop")
    try:
        assert await called(link, COMMIT, [session.commit()], soon()) in ([b"DUPLICATE 1"], [b"OK 1"])
    finally:
        failpoints.arm("")
    assert proxy.accepted == 2


# ---- with a store of the test's own


@pytest.fixture
async def own_link(own_store: EmbeddedStore) -> AsyncIterator[tuple[Scripted, Link]]:
    link, scripted = link_to(as_service(own_store.url), 2.0), Scripted(own_store.url)
    yield scripted, link
    await link.aclose()
    scripted.redis.close()


async def test_scripts_that_the_store_forgot_are_loaded_again(own_link: tuple[Scripted, Link]) -> None:
    store, link = own_link
    session = store.claimed(claim(new_key()))
    for step in range(1, 21):
        store.redis.script_flush()
        commit = session.commit(step)
        assert await called(link, COMMIT, [commit], soon()) == [b"OK %d" % step]
        session = session.after(commit)


async def repeated(command: str, store: Scripted, over: asyncio.Event) -> None:
    """Again and again, until it is over: then no copy of it is on its way."""
    while not over.is_set():
        await asyncio.to_thread(store.redis.execute_command, command)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("command", ["CLIENT KILL TYPE normal SKIPME yes", "SCRIPT FLUSH"])
async def test_commits_go_on_while_an_operator_does_his_worst(
    own_link: tuple[Scripted, Link], own_store: EmbeddedStore, command: str
) -> None:
    store, link = own_link
    session = store.claimed(claim(new_key()))
    operator = Scripted(own_store.url)
    over = asyncio.Event()
    worst = asyncio.create_task(repeated(command, operator, over))
    try:
        for step in range(1, 61):
            commit = session.commit(step)
            (answer,) = await called(link, COMMIT, [commit], soon())
            assert answer in (b"OK %d" % step, b"DUPLICATE %d" % step)
            session = session.after(commit)
    finally:
        over.set()
        await worst
        operator.redis.close()
    fields = Scripted(own_store.url).fields(session.owner.key)
    assert (fields["n"], fields["c"], fields["h"]) == (b"60", b"60", session.h)


async def until_answered(link: Link, commit: Commit) -> list[Answer]:
    """A link that gave up tries once a call, until one is answered."""
    deadline = soon()
    while True:
        try:
            return await called(link, COMMIT, [commit], deadline)
        except StoreUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_a_store_that_was_away_is_found_again(own_link: tuple[Scripted, Link], own_store: EmbeddedStore) -> None:
    store, link = own_link
    session = store.claimed(claim(new_key()))
    own_store.kill()
    with pytest.raises(StoreUnavailable):
        await called(link, COMMIT, [session.commit()], time.monotonic() + 0.1)
    await asyncio.to_thread(own_store.start)
    assert await until_answered(link, session.commit()) == [b"OK 1"]


async def test_a_commit_waits_for_a_primary_that_restarts(
    own_link: tuple[Scripted, Link], own_store: EmbeddedStore
) -> None:
    store, link = own_link
    session = store.claimed(claim(new_key()))
    own_store.kill()
    calling = asyncio.create_task(called(link, COMMIT, [session.commit()], soon()))
    await asyncio.to_thread(own_store.start)
    assert await calling == [b"OK 1"]


async def test_a_primary_that_became_a_replica_is_asked_until_it_is_one_again(own_link: tuple[Scripted, Link]) -> None:
    store, link = own_link
    session = store.claimed(claim(new_key()))
    assert await called(link, PEEK, [Peek(new_key())], soon()) == [b"GONE"]
    store.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    calling = asyncio.create_task(called(link, COMMIT, [session.commit()], soon()))
    await asyncio.sleep(0.1)
    assert not calling.done()
    store.redis.execute_command("REPLICAOF", "NO", "ONE")
    assert await calling == [b"OK 1"]
