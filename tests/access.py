"""The users of a test's stores: the service's, with the rights that operators give it, and the test's own.

The service connects as `cellwire` of deploy/redis/users.acl, so that every test is a test of those rights. A URL
without a user is an administrator's: tests look at their stores, and break them, by the URLs that the stores have.
"""

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from redis import Redis

USERS = Path(__file__).parent.parent / "deploy" / "redis" / "users.acl"
SERVICE_USER = "cellwire"
PASSWORD = "of-the-tests"
"""Of every user of the file; none of them has one there."""


def users() -> str:
    """The operators' file with passwords, and the default user switched on as administrator."""
    lines = []
    for line in USERS.read_text().splitlines():
        word, name, *rules = line.split()
        lines.append(" ".join([word, name, f">{PASSWORD}", *rules] if name != "default" else [word, *_ADMINISTRATOR]))
    return "".join(f"{line}\n" for line in lines)


_ADMINISTRATOR = ("default", "on", "nopass", "~*", "&*", "+@all")


def as_service(url: str) -> str:
    """The URL of a store as the service is to be given it: with its user and password."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{SERVICE_USER}:{PASSWORD}@{hosts}"))


def make_users(url: str) -> None:
    """Gives the users of the file to a running store that was not started for the tests."""
    with Redis.from_url(url) as store:
        for line in users().splitlines():
            _, name, *rules = line.split()
            if name != "default":
                store.execute_command("ACL", "SETUSER", name, "reset", *rules)


def refused(url: str) -> set[str]:
    """What the store has refused to the service's user."""
    with Redis.from_url(url, decode_responses=True) as store:
        entries: list[dict[str, str]] = store.acl_log()
    return {entry["object"] for entry in entries if entry["username"] == SERVICE_USER}
