"""Stores of more than one process, on loopback: Sentinel, Cluster; and one that speaks TLS only. For tests.

Every node is a real server with a directory, a TCP port and a unix socket of its own. The test looks at nodes by the
unix sockets, so that what it asks is not in the way of what it tests. All methods block; in a test with an event
loop they go to a thread. Nothing here sleeps and hopes: what must come is asked for.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from cellwire.cli.children import Children
from cellwire.cli.embedded import EmbeddedStore
from tests.access import PASSWORD, users
from tests.certificates import Authority
from tests.waiting import wait_until

HOST = "127.0.0.1"
SERVICE = "cellwire"
"""The name by which sentinels know the primary."""
SLOTS = 16384
WORKERS = 16
_OURS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_PORTS = random.sample(range(12_000 + _OURS, 32_000, WORKERS), 20_000 // WORKERS)
"""Below what systems give to connections, so that a node that was killed finds its port free again; and no other test
worker's, because a server takes its port some time after it was given."""
_next_port = cycle(_PORTS)


def free_port() -> int:
    """A port of loopback that nobody listens on, and that was not given for long."""
    while True:
        port = next(_next_port)
        with socket.socket() as attempt, suppress(OSError):
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind((HOST, port))
            return port


def _tls_options(authority: Authority, port: int) -> dict[str, str]:
    """For a server that listens with TLS only and speaks TLS to others of its kind."""
    certificate, key = authority.sign(f"server-{port}")
    return {
        "port": "0",
        "tls-port": str(port),
        "tls-replication": "yes",
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(authority.certificate),
        "tls-auth-clients": "no",
    }


class Node(EmbeddedStore):
    """One process of a topology, with a configuration file that it or its sentinels may rewrite."""

    def __init__(
        self,
        children: Children,
        program: Path | None,
        *,
        config: Sequence[str],
        options: Mapping[str, str],
        mode: Sequence[str] = (),
        tls: Authority | None = None,
        fsync: str = "everysec",
        users: str | None = None,
    ) -> None:
        self.port = free_port()
        listen = _tls_options(tls, self.port) if tls else {"port": str(self.port)}
        super().__init__(
            children, program=program, users=users, fsync=fsync, options={**listen, "bind": HOST, **options}
        )
        self._config = config
        self._mode = mode
        self._scheme = "rediss" if tls else "redis"
        self._paused = False

    @property
    def address(self) -> str:
        """host:port."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """Of this node alone, by TCP."""
        return f"{self._scheme}://{self.address}/0"

    @property
    def answering(self) -> bool:
        """Whether it was neither killed nor paused."""
        return self._server is not None and not self._paused

    def command(self) -> list[str | Path]:
        """The command line of the server: its file first, which it finds as it was left."""
        file = self.directory / "node.conf"
        if not file.exists():
            file.write_text("".join(f"{line}\n" for line in self._config))
        program, *rest = super().command()
        return [program, file, *self._mode, *rest]

    def client(self) -> Redis:
        """One connection, for what belongs together, as a write and its WAIT; `with`. Answers are text."""
        return Redis(
            unix_socket_path=str(self.socket),
            protocol=2,
            decode_responses=True,
            socket_timeout=5.0,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=True,
        )

    def ask(self, *words: str | int) -> Any:
        """Its answer to a command; redis.RedisError when it does not answer or refuses."""
        with self.client() as client:
            return client.execute_command(*words)

    def replication(self) -> dict[str, Any]:
        """INFO replication."""
        return dict(self.ask("INFO", "replication"))

    def pause(self) -> None:
        """SIGSTOP: its connections stay, nothing is answered."""
        if self._server is not None:
            self._server.send_signal(signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """SIGCONT."""
        if self._server is not None:
            self._server.send_signal(signal.SIGCONT)
        self._paused = False

    def kill(self) -> None:
        """SIGKILL, paused or not."""
        super().kill()
        self._paused = False

    def __exit__(self, *reason: object) -> None:
        self.kill()
        super().__exit__(*reason)


class Server(Node):
    """A node that keeps data, with the users of deploy/redis/users.acl; URLs without a user are an administrator's."""

    def __init__(
        self,
        children: Children,
        program: Path | None,
        *,
        fsync: str = "everysec",
        options: Mapping[str, str] | None = None,
        config: Sequence[str] = (),
        tls: Authority | None = None,
    ) -> None:
        follow = {"masteruser": "replica", "masterauth": PASSWORD, "repl-diskless-sync-delay": "0"}
        super().__init__(
            children, program, config=config, options={**follow, **(options or {})}, tls=tls, fsync=fsync, users=users()
        )


def _is_primary(node: Node) -> bool:
    try:
        return node.answering and node.replication()["role"] == "master"
    except (RedisError, OSError):
        return False


def _is_synced(node: Node) -> bool:
    """Whether a replica has its primary's data and follows it."""
    try:
        return bool(node.replication().get("master_link_status") == "up")
    except (RedisError, OSError):
        return False


# Shorter than the defaults, so that a failover takes a second or two and not ten: how often a sentinel asks INFO,
# tells the others of itself, and asks whether they too think that the primary is down. Milliseconds.
_SENTINEL_PERIODS = ("info-period", 500, "publish-period", 200, "ask-period", 200)


class Sentinel(Node):
    """One sentinel."""

    def __init__(
        self,
        children: Children,
        program: Path | None,
        primary: Node,
        quorum: int,
        down_after: float,
        tls: Authority | None,
    ) -> None:
        config = (
            f"sentinel monitor {SERVICE} {HOST} {primary.port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {down_after * 1000:.0f}",
            f"sentinel failover-timeout {SERVICE} {max(3.0, 3 * down_after) * 1000:.0f}",
            f"sentinel auth-user {SERVICE} sentinel",
            f"sentinel auth-pass {SERVICE} {PASSWORD}",
        )
        super().__init__(children, program, config=config, options={}, mode=["--sentinel"], tls=tls)

    def start(self, timeout: float = 20.0) -> None:
        """As any node; then it is told to look often."""
        super().start(timeout)
        self.ask("SENTINEL", "DEBUG", *_SENTINEL_PERIODS)

    def primary_port(self) -> int:
        """Where clients are sent."""
        _, port = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(port)

    def knows(self, replicas: int, sentinels: int) -> bool:
        """Whether it could carry out a failover now: it knows all the others."""
        pairs = self.ask("SENTINEL", "MASTER", SERVICE)
        seen = pairs if isinstance(pairs, dict) else dict(zip(pairs[::2], pairs[1::2], strict=True))
        return (int(seen["num-slaves"]), int(seen["num-other-sentinels"])) == (replicas, sentinels - 1)


class SentinelStore:
    """One primary and its replicas, watched by sentinels."""

    def __init__(
        self,
        children: Children,
        program: Path | None = None,
        *,
        down_after: float = 1.0,
        fsync: str = "everysec",
        replicas: int = 2,
        sentinels: int = 3,
        options: Mapping[str, str] | None = None,
        tls: Authority | None = None,
    ) -> None:
        def server(*config: str) -> Server:
            return Server(children, program, fsync=fsync, options=options, config=config, tls=tls)

        first = server()
        others = [server(f"replicaof {HOST} {first.port}") for _ in range(replicas)]
        self.nodes = [first, *others]
        """The servers, whatever their roles are now."""
        quorum = sentinels // 2 + 1
        self.sentinels = [Sentinel(children, program, first, quorum, down_after, tls) for _ in range(sentinels)]
        self._scheme = "rediss" if tls else "redis"
        self._stack = ExitStack()
        self._last_primary = first

    @property
    def url(self) -> str:
        """For CELLWIRE_STORE_URL: the sentinels and the name of the primary."""
        return f"{self._scheme}+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{SERVICE}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in (*self.nodes, *self.sentinels):
                stack.enter_context(node)
            self.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def primary(self) -> Server:
        """The node that the sentinels send clients to."""
        return self._by_port(next(sentinel for sentinel in self.sentinels if sentinel.answering).primary_port())

    def replicas(self) -> list[Server]:
        """The others, killed ones too."""
        primary = self.primary()
        return [node for node in self.nodes if node is not primary]

    def wait_ready(self) -> None:
        """Until every replica follows the primary and every sentinel knows all nodes: a failover would succeed."""
        wait_until(lambda: all(map(self._in_place, self.nodes)), "replicas that follow their primary")
        counts = len(self.nodes) - 1, len(self.sentinels)
        wait_until(lambda: all(s.knows(*counts) for s in self.sentinels), "sentinels that know all the others")

    def kill_primary(self) -> Server:
        """SIGKILL; which node it was, for `restart`."""
        self._last_primary = self.primary()
        self._last_primary.kill()
        return self._last_primary

    def pause_primary(self) -> Server:
        """SIGSTOP: the sentinels fail over, and after `resume` it believes for a moment to be primary still."""
        self._last_primary = self.primary()
        self._last_primary.pause()
        return self._last_primary

    def wait_failover(self) -> Server:
        """Until every sentinel sends clients to another node than the one last killed or paused."""
        wait_until(self._failed_over, "a failover")
        return self.primary()

    def restart(self, node: Server) -> None:
        """Start a killed node again, and wait until it follows the present primary."""
        node.start()
        wait_until(lambda: self._in_place(node), "a node that came back")

    @contextmanager
    def lagging(self) -> Iterator[Server]:
        """What is written within the block reaches the primary alone; at its end the primary dies with it.

        The replicas are stopped and their links cut, because what stands in a stopped process's socket is not lost.
        One of them is promoted afterwards: see `wait_failover`.
        """
        primary, replicas = self.primary(), self.replicas()
        for replica in replicas:
            replica.pause()
        primary.ask("CLIENT", "KILL", "TYPE", "replica")
        try:
            yield primary
        finally:
            self.kill_primary()
            for replica in replicas:
                replica.resume()

    def _in_place(self, node: Server) -> bool:
        """Whether it is what the sentinels think that it is: the primary, or one that follows the primary."""
        primary = self.primary()
        if node is primary:
            return _is_primary(node)
        return _is_synced(node) and node.replication()["master_port"] == primary.port

    def _failed_over(self) -> bool:
        last = self._last_primary.port
        ports = {sentinel.primary_port() for sentinel in self.sentinels if sentinel.answering}
        return len(ports) == 1 and last not in ports and _is_primary(self._by_port(ports.pop()))

    def _by_port(self, port: int) -> Server:
        return next(node for node in self.nodes if node.port == port)


@dataclass(frozen=True)
class Seen:
    """A node of a cluster as another one sees it."""

    id: str
    port: int
    flags: frozenset[str]
    primary_id: str
    slots: tuple[range, ...]


class ClusterNode(Server):
    """One node of a cluster."""

    def __init__(
        self, children: Children, program: Path | None, fsync: str, options: Mapping[str, str], tls: Authority | None
    ) -> None:
        cluster = {
            "cluster-enabled": "yes",
            "cluster-port": str(free_port()),
            "cluster-node-timeout": "1500",
            "cluster-allow-replica-migration": "no",
        }
        if tls:
            cluster["tls-cluster"] = "yes"
        super().__init__(children, program, fsync=fsync, options={**cluster, **options}, tls=tls)
        self.bus_port = int(cluster["cluster-port"])

    @property
    def id(self) -> str:
        """As the cluster knows it."""
        return str(self.ask("CLUSTER", "MYID"))

    def view(self) -> list[Seen]:
        """The whole cluster, as this node sees it."""
        seen = []
        for line in str(self.ask("CLUSTER", "NODES")).splitlines():
            node_id, address, flags, primary_id, _, _, _, _, *slots = line.split()
            port = int(address.partition("@")[0].rpartition(":")[2])
            ranges = [word.partition("-") for word in slots if not word.startswith("[")]
            owned = tuple(range(int(first), int(last or first) + 1) for first, _, last in ranges)
            seen.append(Seen(node_id, port, frozenset(flags.split(",")), primary_id.strip("-"), owned))
        return seen

    def serves(self) -> bool:
        """Whether it thinks that the cluster is in order, and, if it is a replica, follows its primary."""
        try:
            whole = "cluster_state:ok" in self.ask("CLUSTER", "INFO")
            return whole and (_is_primary(self) or _is_synced(self))
        except (RedisError, OSError):
            return False


class Migration:
    """One slot on its way from one primary to another, step by step; between the steps clients meet ASK."""

    def __init__(self, store: "ClusterStore", slot: int, target: ClusterNode) -> None:
        self._store, self._slot = store, slot
        self.source, self.target = store.owner(slot), target

    def begin(self) -> None:
        """The target imports, the source migrates: keys that are not there are asked for at the target."""
        self.target.ask("CLUSTER", "SETSLOT", self._slot, "IMPORTING", self.source.id)
        self.source.ask("CLUSTER", "SETSLOT", self._slot, "MIGRATING", self.target.id)

    def move(self, count: int = SLOTS) -> int:
        """Moves so many keys at most: how many it were."""
        keys = self.source.ask("CLUSTER", "GETKEYSINSLOT", self._slot, count)
        if keys:
            self.source.ask("MIGRATE", HOST, self.target.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def finish(self) -> None:
        """Moves what is left, and tells every primary who owns the slot: clients meet MOVED."""
        while self.move():
            pass
        primaries = [node for node in self._store.primaries() if node not in (self.target, self.source)]
        for node in (self.target, self.source, *primaries):
            node.ask("CLUSTER", "SETSLOT", self._slot, "NODE", self.target.id)
        self._store.wait_stable()


class ClusterStore:
    """Three primaries, each with a replica."""

    def __init__(
        self,
        children: Children,
        program: Path | None = None,
        *,
        fsync: str = "everysec",
        primaries: int = 3,
        options: Mapping[str, str] | None = None,
        tls: Authority | None = None,
    ) -> None:
        self.nodes = [ClusterNode(children, program, fsync, options or {}, tls) for _ in range(2 * primaries)]
        """The servers, whatever their roles are now; the first half began as primaries."""
        self._scheme = "rediss" if tls else "redis"
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """For CELLWIRE_STORE_URL: all nodes."""
        return f"{self._scheme}+cluster://{','.join(node.address for node in self.nodes)}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _join(self) -> None:
        """What redis-cli --cluster create does, without its pauses."""
        half = len(self.nodes) // 2
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for other in self.nodes[:number]:
                node.ask("CLUSTER", "MEET", HOST, other.port, other.bus_port)
        for number, node in enumerate(self.nodes[:half]):
            node.ask("CLUSTER", "ADDSLOTSRANGE", SLOTS * number // half, SLOTS * (number + 1) // half - 1)
        wait_until(lambda: all(self._knows_all(node) for node in self.nodes), "nodes that know each other")
        for primary, replica in zip(self.nodes[:half], self.nodes[half:], strict=True):
            replica.ask("CLUSTER", "REPLICATE", primary.id)
        self.wait_stable()

    def _knows_all(self, node: ClusterNode) -> bool:
        seen = node.view()
        return len(seen) == len(self.nodes) and not any("handshake" in other.flags for other in seen)

    def wait_stable(self) -> None:
        """Until all nodes that were not killed or paused serve, and agree on who owns which slot and follows whom."""
        wait_until(self._stable, "a cluster in order")

    def _stable(self) -> bool:
        nodes = [node for node in self.nodes if node.answering]
        up = {node.port for node in nodes}
        views = {frozenset((s.id, s.primary_id, s.slots) for s in node.view() if s.port in up) for node in nodes}
        return len(views) == 1 and all(node.serves() for node in nodes)

    def _view(self) -> list[Seen]:
        return next(node for node in self.nodes if node.answering).view()

    def _by_port(self, port: int) -> ClusterNode:
        return next(node for node in self.nodes if node.port == port)

    def primaries(self) -> list[ClusterNode]:
        """Those that own slots now."""
        return [self._by_port(seen.port) for seen in self._view() if seen.slots]

    def owner(self, slot: int) -> ClusterNode:
        """The primary of a slot."""
        return next(self._by_port(seen.port) for seen in self._view() if any(slot in part for part in seen.slots))

    def owner_of(self, key: str) -> ClusterNode:
        """The primary of a key."""
        return self.owner(self.slot(key))

    def slot(self, key: str) -> int:
        """The slot of a key."""
        return int(next(node for node in self.nodes if node.answering).ask("CLUSTER", "KEYSLOT", key))

    def replica_of(self, primary: ClusterNode) -> ClusterNode:
        """The replica of a primary, which may be down."""
        view = self._view()
        (primary_id,) = (seen.id for seen in view if seen.port == primary.port)
        return next(self._by_port(seen.port) for seen in view if seen.primary_id == primary_id)

    def failover(self, primary: ClusterNode, *, takeover: bool = False) -> ClusterNode:
        """Makes the replica of a primary the primary: in agreement with it, or by a takeover without asking anybody."""
        replica = self.replica_of(primary)
        replica.ask("CLUSTER", "FAILOVER", *(["TAKEOVER"] if takeover else []))
        wait_until(lambda: _is_primary(replica), "a promoted replica")
        self.wait_stable()
        return replica

    def kill(self, node: ClusterNode) -> ClusterNode:
        """SIGKILL; its replica, which will be promoted if it was a primary."""
        replica = self.replica_of(node)
        node.kill()
        return replica

    def wait_failover(self, replica: ClusterNode) -> None:
        """Until a replica was promoted by itself and the rest agrees."""
        wait_until(lambda: _is_primary(replica), "a promoted replica")
        self.wait_stable()

    def restart(self, node: ClusterNode) -> None:
        """Start a killed node again, and wait until the cluster is in order with it."""
        node.start()
        self.wait_stable()

    def migrate(self, slot: int, target: ClusterNode) -> Migration:
        """The migration of one slot, not yet begun."""
        return Migration(self, slot, target)

    def reshard(self, count: int, source: ClusterNode, target: ClusterNode) -> None:
        """Moves slots as an operator does, by redis-cli; skips the test where there is none."""
        program = shutil.which("redis-cli")
        if program is None:
            pytest.skip("redis-cli is not installed")
        words = ("--cluster-from", source.id, "--cluster-to", target.id, "--cluster-slots", str(count), "--cluster-yes")
        subprocess.run(
            [program, "--cluster", "reshard", source.address, *words], check=True, capture_output=True, timeout=60
        )
        self.wait_stable()


class TlsStore:
    """One server that speaks TLS only, with the files of a client that it knows and of an authority that it does not.

    `client_certificates`: it wants one of each client. The embedded Valkey knows no TLS: `program` is to be another.
    """

    def __init__(self, children: Children, program: Path, *, client_certificates: bool = False) -> None:
        self._children = children
        self._program = program
        self._options = {"tls-auth-clients": "yes" if client_certificates else "no"}
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """For CELLWIRE_STORE_URL."""
        return self.server.url

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cellwire-tls-")))
            authority = Authority(directory)
            self.ca = authority.certificate
            self.certificate, self.key = authority.sign("client")
            self.other_ca = Authority(directory, "another").certificate
            server = Server(self._children, self._program, options=self._options, tls=authority)
            self.server = stack.enter_context(server)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
