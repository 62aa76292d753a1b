"""The forms of store URLs, each with its topology. Knows nothing else of them."""

from service.store.cluster import Cluster
from service.store.endpoint import Access, Endpoint, Node
from service.store.sentinel import Sentinel
from service.store.topology import Topology

PORTS = {"sentinel": 26379, "cluster": 6379}


def topology_of(url: str, access: Access) -> Topology:
    """The topology that a store URL names.

    redis[s]://, unix:///: one server, as redis-py knows it. redis[s]+sentinel://[user:password@]h1:p,h2:p/service.
    redis[s]+cluster://[user:password@]h1:p,h2:p.

    Raises:
        ValueError, TypeError: it has no such form.
    """
    scheme, _, rest = url.partition("://")
    transport, _, form = scheme.partition("+")
    if not form:
        return Topology(Endpoint(url, access))
    if form not in PORTS or transport not in ("redis", "rediss"):
        raise ValueError("redis or rediss, sentinel or cluster")
    rest, _, query = rest.partition("?")
    authority, _, service = rest.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    nodes = [_node(host, PORTS[form]) for host in hosts.split(",")]
    endpoint = Endpoint(f"{transport}://{credentials}{at}?{query}", access)
    if form == "cluster":
        if service:
            raise ValueError("a cluster has no path")
        return Cluster(endpoint, nodes)
    if not service:
        raise ValueError("the name of the service is missing")
    return Sentinel(endpoint, nodes, service)


def _node(text: str, port: int) -> Node:
    """host, host:port, [::1] or [::1]:port."""
    host, colon, number = text.rpartition(":")
    if not colon or number.endswith("]"):
        host, number = text, str(port)
    host = host.strip("[]")
    if not host:
        raise ValueError("a host is missing")
    return Node(host, int(number))
