"""The service's user of the store: what deploy/redis/users.acl lets it do, and what not."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from cellwire.cli.embedded import EmbeddedStore
from tests.access import SERVICE_USER, USERS, as_service

FORBIDDEN = (
    "CONFIG GET maxmemory",
    "CONFIG SET appendonly no",
    "DEBUG SLEEP 0",
    "KEYS *",
    "FLUSHALL",
    "FLUSHDB",
    "SHUTDOWN",
    "REPLICAOF NO ONE",
    "CLUSTER RESET",
    "MIGRATE 127.0.0.1 1 cw:k 0 10",
    "RESTORE cw:k 0 x",
    "EVAL return 0",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "FUNCTION LIST",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "ACL LIST",
    "MONITOR",
    "PUBLISH channel message",
    "SUBSCRIBE channel",
)
FOREIGN = (
    "GET other",
    "SET other 1",
    "HMGET other f",
    "HSET other f 1",
    "DEL other",
    "PEXPIRE other 1",
    "HGET other f",
)


@pytest.fixture
def administrator(own_store: EmbeddedStore) -> Iterator[Redis]:
    with Redis.from_url(own_store.url) as client:
        yield client


@pytest.fixture
def service(own_store: EmbeddedStore) -> Iterator[Redis]:
    with Redis.from_url(as_service(own_store.url)) as client:
        yield client


@pytest.mark.parametrize("command", FORBIDDEN)
def test_the_service_may_not(administrator: Any, service: Any, command: str) -> None:
    words = command.split(" ")
    with pytest.raises(ResponseError):
        service.execute_command(*words)
    # DEBUG is refused to everybody, before it is asked who it is
    assert b"no permissions to run" in administrator.execute_command("ACL", "DRYRUN", SERVICE_USER, *words)


@pytest.mark.parametrize("command", FOREIGN)
def test_the_service_touches_no_key_but_its_own(administrator: Any, service: Any, command: str) -> None:
    administrator.set("other", "theirs")
    with pytest.raises(NoPermissionError, match="key"):
        service.execute_command(*command.split(" "))
    assert administrator.get("other") == b"theirs"


def test_a_script_has_the_rights_of_its_caller(administrator: Any, service: Any) -> None:
    administrator.set("other", "theirs")
    own, foreign, hidden = (
        service.script_load(f"return redis.call({call})")
        for call in ("'GET', KEYS[1]", "'GET', KEYS[1] ", "'GET', 'other'")
    )
    service.set("cw:k", "ours")
    assert service.evalsha(own, 1, "cw:k") == b"ours"
    with pytest.raises(NoPermissionError, match="key"):
        service.evalsha(foreign, 1, "other")
    with pytest.raises(ResponseError, match="key"):
        service.evalsha(hidden, 1, "cw:k")


def test_the_default_user_is_off_and_nobody_has_a_password_that_is_published() -> None:
    lines = USERS.read_text().splitlines()
    assert lines[0] == "user default off"
    assert not re.search(r"[>#]|nopass", USERS.read_text())


def test_of_what_the_store_calls_dangerous_the_service_may_look_only(administrator: Any) -> None:
    (line,) = (line for line in USERS.read_text().splitlines() if line.startswith(f"user {SERVICE_USER} "))
    granted = {word[1:] for word in line.split() if word.startswith("+")}
    dangerous = {name for kind in ("admin", "dangerous") for name in administrator.acl_cat(kind)}
    whole = {name.partition("|")[0] for name in dangerous if "|" in name}
    assert granted & dangerous == {"info", "role"}
    assert not granted & whole
