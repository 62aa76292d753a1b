"""The claims of one replica, on a real store."""

import os

import pytest

from service.codec import OpenRequest
from service.errors import CellwireError, Superseded
from service.server import Server
from service.values import Mode


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
