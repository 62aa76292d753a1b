"""The topologies that tests run on do what their names say."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from cellwire.cli.children import Children
from tests.certificates import Authority
from tests.conftest import STORES, store_program
from tests.topologies import SLOTS, ClusterStore, SentinelStore, TlsStore


@pytest.fixture(params=STORES)
def sentinel_store(request: pytest.FixtureRequest, children: Children) -> Iterator[SentinelStore]:
    with SentinelStore(children, store_program(request.param)) as store:
        yield store


@pytest.fixture(params=STORES)
def cluster_store(request: pytest.FixtureRequest, children: Children) -> Iterator[ClusterStore]:
    with ClusterStore(children, store_program(request.param)) as store:
        yield store


def test_a_replica_takes_over_and_the_old_primary_follows_it(sentinel_store: SentinelStore) -> None:
    with sentinel_store.primary().client() as client:
        assert client.set("k", "v")
        assert client.wait(2, 5000) == 2
    old = sentinel_store.kill_primary()
    new = sentinel_store.wait_failover()
    assert new is not old
    assert new.ask("GET", "k") == "v"
    sentinel_store.restart(old)
    assert old.ask("GET", "k") == "v"
    assert old.replication()["master_port"] == sentinel_store.primary().port


def test_what_lagging_replicas_did_not_get_is_lost(sentinel_store: SentinelStore) -> None:
    with sentinel_store.primary().client() as client:
        assert client.set("k", "kept")
        assert client.wait(2, 5000) == 2
    with sentinel_store.lagging() as old, old.client() as client:
        assert client.set("k", "lost")
        assert client.wait(1, 100) == 0
    new = sentinel_store.wait_failover()
    assert new is not old
    assert new.ask("GET", "k") == "kept"


def test_a_paused_primary_is_replaced_and_then_follows(sentinel_store: SentinelStore) -> None:
    old = sentinel_store.pause_primary()
    sentinel_store.wait_failover()
    old.resume()
    sentinel_store.wait_ready()
    assert old.replication()["master_port"] == sentinel_store.primary().port


def test_a_cluster_loses_and_regains_a_primary(cluster_store: ClusterStore) -> None:
    old = cluster_store.owner_of("k7")
    with old.client() as client:
        assert client.set("k7", 7)
        assert client.wait(1, 5000) == 1
    replica = cluster_store.kill(old)
    cluster_store.wait_failover(replica)
    assert cluster_store.owner_of("k7") is replica
    assert replica.ask("GET", "k7") == "7"
    cluster_store.restart(old)
    assert cluster_store.replica_of(replica) is old
    for takeover in (False, True):
        was = cluster_store.owner_of("k7")
        assert cluster_store.failover(was, takeover=takeover) is cluster_store.owner_of("k7") is not was


def test_slots_move_while_a_client_follows(cluster_store: ClusterStore) -> None:
    with RedisCluster.from_url(cluster_store.nodes[0].url) as client:
        client.set("a{s}", 1)
        client.set("b{s}", 2)
        source = cluster_store.owner_of("{s}")
        target = next(node for node in cluster_store.primaries() if node is not source)
        migration = cluster_store.migrate(cluster_store.slot("{s}"), target)
        migration.begin()
        assert migration.move(1) == 1
        with pytest.raises(RedisError, match=str(target.port)):
            source.ask("GET", "never{s}")
        assert (client.get("a{s}"), client.get("b{s}")) == (b"1", b"2")
        migration.finish()
        assert cluster_store.owner_of("{s}") is target
        assert (client.get("a{s}"), client.get("b{s}")) == (b"1", b"2")

        # redis-cli takes the lowest slots of the source first
        source, target = target, source
        (slots, *_) = next(seen.slots for seen in source.view() if seen.port == source.port)
        moved = next(key for key in map(str, range(SLOTS * 20)) if client.keyslot(key) == slots.start)
        client.set(moved, 3)
        cluster_store.reshard(3, source, target)
        assert cluster_store.owner_of(moved) is target
        assert client.get(moved) == b"3"


@pytest.mark.parametrize("client_certificates", [False, True])
def test_a_tls_store_is_reached_by_those_who_trust_it_alone(children: Children, client_certificates: bool) -> None:
    program = store_program("redis")
    assert program
    with TlsStore(children, program, client_certificates=client_certificates) as store:
        certificate = {"ssl_certfile": str(store.certificate), "ssl_keyfile": str(store.key)}
        with Redis.from_url(store.url, ssl_ca_certs=str(store.ca), **certificate) as client:
            assert client.ping()
        with Redis.from_url(store.url, ssl_ca_certs=str(store.other_ca), **certificate) as client:
            with pytest.raises(RedisError):
                client.ping()
        with Redis.from_url(store.url, ssl_ca_certs=str(store.ca)) as client:
            if client_certificates:
                with pytest.raises(RedisError):
                    client.ping()
            else:
                assert client.ping()


def test_sentinels_and_their_servers_speak_tls(children: Children, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with SentinelStore(children, store_program("redis"), tls=authority) as store:
        assert store.url.startswith("rediss+sentinel://")
        with Redis.from_url(store.primary().url, ssl_ca_certs=str(authority.certificate)) as client:
            assert client.ping()
        store.kill_primary()
        store.wait_failover()


def test_a_cluster_speaks_tls(children: Children, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with ClusterStore(children, store_program("redis"), tls=authority) as store:
        assert store.url.startswith("rediss+cluster://")
        with RedisCluster.from_url(store.nodes[0].url, ssl_ca_certs=str(authority.certificate)) as client:
            assert client.set("k", "v")
        store.failover(store.owner_of("k"))
