"""A primary and a replica that follows it over a wire of the tests' own: crashes, and failovers that lose the tail."""

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from tests.access import users
from tests.faults.gate import Gate
from tests.waiting import eventually

OPTIONS = {"enable-debug-command": "local", "repl-diskless-sync-delay": "0", "repl-timeout": "5"}


class Pair:
    """Two stores of one service. `async with` starts them, the second following the first."""

    def __init__(
        self,
        children: Children,
        *,
        fsync: str = "always",
        program: Path | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._options = {**OPTIONS, **(options or {})}
        self.primary, self.follower = (
            EmbeddedStore(children, fsync=fsync, options=self._options, program=program, users=users())
            for _ in range(2)
        )
        self._wire = Gate()

    @property
    def url(self) -> str:
        """Of the primary of the moment."""
        return self.primary.url

    async def __aenter__(self) -> "Pair":
        await self._wire.__aenter__()
        for store in (self.primary, self.follower):
            await asyncio.to_thread(store.__enter__)
        await self._follow()
        return self

    async def __aexit__(self, *_: object) -> None:
        for store in (self.primary, self.follower):
            await asyncio.to_thread(store.__exit__)
        await self._wire.__aexit__()

    async def ask(self, *command: str | int) -> Any:
        """A command to the primary."""
        return await _ask(self.primary.url, *command)

    def lag(self) -> None:
        """From here on the replica gets nothing."""
        self._wire.freeze()

    async def fail_over(self) -> None:
        """The primary dies, and what had not reached the replica with it; the replica is promoted."""
        self.primary.kill()
        self._wire.cut()
        await _ask(self.follower.url, "REPLICAOF", "NO", "ONE")
        self.primary, self.follower = self.follower, self.primary

    async def recover(self) -> None:
        """The one that died comes back, empty, and follows the other one."""
        for path in self.follower.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        await asyncio.to_thread(self.follower.start)
        await self._follow()

    async def seconds_ahead(self) -> float:
        """The follower's clock against the primary's."""
        here, there = [await _ask(store.url, "TIME") for store in (self.primary, self.follower)]
        return float(there[0] - here[0])

    def files(self) -> list[Path]:
        """What the primary appends its writes to."""
        return sorted(self.primary.directory.glob("appendonlydir/*.incr.aof"))

    async def crash(self, sizes: Mapping[Path, int] | None = None) -> None:
        """The primary is killed and starts again on what is on its disk, or on so much of its files."""
        self._wire.cut()
        self.primary.kill()
        for path, size in (sizes or {}).items():
            os.truncate(path, size)
        await asyncio.to_thread(self.primary.start)
        self._wire.mend()

    async def caught_up(self) -> None:
        """Returns once the replica has what the primary had, and follows it."""

        async def follows() -> bool:
            role = await _ask(self.follower.url, "ROLE")
            return bool(role[0] == b"slave" and role[3] == b"connected")

        await eventually(follows, "the replica", RedisError, OSError)

    async def _follow(self) -> None:
        self._wire.upstream = self.primary.url
        self._wire.mend()
        await _ask(self.follower.url, "REPLICAOF", "127.0.0.1", self._wire.port)
        await self.caught_up()


async def _ask(url: str, *command: str | int) -> Any:
    client: Redis = Redis.from_url(url)
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        await client.aclose()
