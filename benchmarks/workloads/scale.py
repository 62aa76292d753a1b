"""W11 and W14: more processes, and a store of more than one."""

from collections.abc import Sequence

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.client.task import Task
from benchmarks.servers import CLIENT_CORE, SERVER_CORE
from benchmarks.stores import Usage, usage
from tests.topologies import ClusterStore

LOAD = Task(streams=128, connections=128)


async def workers(bench: Bench) -> None:
    """One process on its core, and two on both, the client still on one of them."""
    async with (
        bench.replica(load="bench") as one,
        bench.replica(load="bench", workers=2, cores=(SERVER_CORE, CLIENT_CORE)) as two,
    ):
        for turn in range(bench.plan.runs):
            await bench.measure(one, turn, LOAD, workers=1)
            await bench.measure(two, turn, LOAD, workers=2)


class Cluster:
    """A cluster as workloads see a store."""

    def __init__(self, cluster: ClusterStore) -> None:
        self._nodes = cluster.nodes
        self.url = cluster.url

    def pids(self) -> Sequence[int]:
        """Of all nodes."""
        return [node.pid for node in self._nodes]

    def usage(self) -> Usage:
        """Of all nodes, what they tell each other too."""
        usages = [usage(node) for node in self._nodes]
        return Usage(sum(each.moved for each in usages), sum(each.memory for each in usages))


async def cluster(bench: Bench) -> None:
    """Three primaries of a cluster, each with a replica, beside the one store."""
    with processes.on_cores(CLIENT_CORE), ClusterStore(bench.children, primaries=3) as nodes:
        store = Cluster(nodes)
        async with bench.replica(load="bench") as one, bench.replica(store=store, load="bench") as ours:
            for turn in range(bench.plan.runs):
                for streams in (32, 128):
                    await bench.measure(one, turn, Task(streams=streams), nodes="one")
                    await bench.measure(ours, turn, Task(streams=streams), store, nodes="cluster")
