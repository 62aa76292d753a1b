"""The claims of one replica, on a real store."""

import os

import pytest
from redis.asyncio import Redis

from service import cells
from service.codec import OpenRequest
from service.errors import CellwireError, Superseded
from service.server import Server
from service.store.keys import session_key
from service.store.outcome import ClaimLost
from service.values import Mode
from tests.harness import Place


@pytest.mark.parametrize("late", [False, True], ids=["in order", "the older stream comes later"])
async def test_of_two_streams_the_one_with_the_older_claim_is_ended(server: Server, late: bool) -> None:
    token = os.urandom(16)
    first = (await server.sessions.open(OpenRequest("s", token, Mode.CREATE, "checker"))).session
    again = OpenRequest("s", token, Mode.RESUME, found_epoch=first.owner.epoch)
    second = (await server.sessions.open(again)).session
    told: list[tuple[str, CellwireError]] = []
    first.on_lost = lambda error: told.append(("first", error))
    second.on_lost = lambda error: told.append(("second", error))
    for session in (second, first) if late else (first, second):
        server.sessions.hold(session)
    ((name, error),) = told
    assert (name, type(error)) == ("first", Superseded)
    assert server.sessions.live == {second.owner.key: second}
    server.sessions.leave(first)
    server.sessions.leave(second)
    await server.sessions.settled()
    assert not server.sessions.live


async def test_a_stream_whose_claim_the_store_lost_is_not_told_of_a_rival(server: Server, place: Place) -> None:
    """The client that lost it opens again, on the replica where its older stream still is."""
    request = OpenRequest("s", os.urandom(16), Mode.CREATE, "checker")
    first = (await server.sessions.open(request)).session
    async with Redis.from_url(place.store_url) as store:
        await store.delete(session_key(place.tenant, "s"))
    second = (await server.sessions.open(request)).session
    told: list[CellwireError] = []
    first.on_lost = told.append
    for session in (first, second):
        server.sessions.hold(session)
    assert [type(error) for error in told] == [ClaimLost]
    server.sessions.leave(second)
    await server.sessions.settled()


async def test_a_claim_whose_model_cannot_be_loaded_for_any_reason_is_given_back(
    server: Server, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = OpenRequest("s", os.urandom(16), Mode.CREATE, "checker")
    first = (await server.sessions.open(request)).session
    server.sessions.leave(first)
    await server.sessions.settled()

    def load(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cells, "load", load)
    loaded = server.cells._loaded.pop(("checker", "1"))
    try:
        with pytest.raises(MemoryError):
            await server.sessions.open(OpenRequest("s", b"", Mode.RESUME, found_epoch=first.owner.epoch))
    finally:
        server.cells._loaded["checker", "1"] = loaded
    await server.sessions.settled()
    async with Redis.from_url(place.store_url) as store:
        fields = await store.hgetall(session_key(place.tenant, "s"))
    assert int(fields[b"e"]) > first.owner.epoch
    assert fields[b"l"] == b"0"
