"""How the nodes of a store are spoken to: TLS, credentials, time limits. Knows not which node holds what.

The transport is redis-py's, with its own retries off: whoever sends owns the doubt.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection, Connection, RedisSSLContext, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider


class Node(NamedTuple):
    """One server of a store."""

    host: str
    port: int


@dataclass(frozen=True)
class Access:
    """What a URL does not say, or says where others can read it. What is given here goes before the URL's."""

    timeout: float
    """Seconds: one answer."""
    username: str = ""
    password: str = ""
    password_file: Path | None = None
    """Read again at each connect, so that a rotated password needs no restart."""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class Credentials(CredentialProvider):
    """A name and a password as they are at this moment."""

    def __init__(self, username: str, password: str, file: Path | None) -> None:
        self._username = username
        self._password = password
        self._file = file

    def __bool__(self) -> bool:
        return bool(self._username or self._password or self._file)

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """For AUTH.

        Raises:
            OSError: the file cannot be read.
        """
        password = self._file.read_text().rstrip("\r\n") if self._file else self._password
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same: a small local file is not worth a thread."""
        return self.get_credentials()


class Endpoint:
    """Makes connections to the nodes of one store; each is new and not connected yet."""

    def __init__(self, url: str, access: Access) -> None:
        """
        Args:
            url: redis://, rediss:// or unix://, as redis-py knows them.
            access: what goes before the URL's.

        Raises:
            ValueError, TypeError: it is not such a URL.
        """
        options: dict[str, Any] = dict(parse_url(url))
        self._class: type[AbstractConnection] = options.pop("connection_class", Connection)
        named, secret = options.pop("username", ""), options.pop("password", "")
        credentials = Credentials(access.username or named, access.password or secret, access.password_file)
        self._credentials = credentials if credentials else None
        if url.startswith("rediss://"):
            files = {"ssl_ca_certs": access.ca, "ssl_certfile": access.cert, "ssl_keyfile": access.key}
            options |= {name: str(path) for name, path in files.items() if path}
        self._access = access
        self._tls: RedisSSLContext | None = None
        self._tls_files: tuple[int, ...] = ()
        """When they were last changed."""
        self._options = {"socket_timeout": access.timeout, "socket_connect_timeout": access.timeout, **options}
        self.timeout = access.timeout
        self._class(**self._options)  # an option that does not exist is told now

    def connection(self, name: str, node: Node | None = None, anonymous: bool = False) -> AbstractConnection:
        """A connection to a node, or to the URL's own; without credentials if `anonymous`.

        Raises:
            OSError: a file for TLS cannot be read or used.
        """
        options = self._options | ({"host": node.host, "port": node.port} if node else {})
        connection = self._class(
            **options,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name=f"cellwire-{name}",
            driver_info=None,  # its name would be one more command, which an ACL need not grant
            credential_provider=None if anonymous else self._credentials,
        )
        if isinstance(connection, SSLConnection):
            self._share_tls(connection)
        return connection

    def _share_tls(self, connection: SSLConnection) -> None:
        """One context for all, until its files change: redis-py would make one for each connection, and load the
        system's authorities each time, which takes a third of a second and trusts them beside the given one."""
        given = self._access
        files = tuple(path.stat().st_mtime_ns for path in (given.ca, given.cert, given.key) if path)
        if self._tls is None or files != self._tls_files:
            if given.ca:
                context = ssl.create_default_context(cafile=given.ca)
                if given.cert:
                    context.load_cert_chain(given.cert, given.key)
                connection.ssl_context.context = context
            self._tls, self._tls_files = connection.ssl_context, files
        connection.ssl_context = self._tls
