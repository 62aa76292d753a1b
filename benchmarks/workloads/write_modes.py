"""W8: write-through against write-behind; and what the store's settings and its connection cost."""

from benchmarks.bench import Bench
from benchmarks.client.talk import Shape
from benchmarks.client.task import Task
from benchmarks.servers import free_port
from benchmarks.stores import OneStore, store_on_client_core

BEHIND = Shape(write_behind=True)


async def run(bench: Bench) -> None:
    """With 32 streams, on 8 connections and on their own."""
    loads = [Task(streams=32, connections=connections) for connections in (8, 32)]
    async with bench.replica(load="bench") as ours, bench.echo() as echo:
        for turn in range(bench.plan.runs):
            for load in loads:
                if not bench.plan.quick:
                    await bench.measure(ours, turn, load, mode="through")
                behind = Task(streams=32, connections=load.connections, shape=BEHIND)
                await bench.measure(ours, turn, behind, mode="behind")
                await bench.measure(echo, turn, load)
    if bench.plan.quick:
        return
    port = free_port()
    with (
        store_on_client_core(bench.children, fsync="always") as always,
        store_on_client_core(bench.children, options={"port": str(port), "bind": "127.0.0.1"}) as tcp,
    ):
        tcp = OneStore(tcp.embedded, f"redis://127.0.0.1:{port}/0")
        for turn in range(bench.plan.runs):
            for store, mode in ((always, "through, appendfsync always"), (tcp, "through, TCP")):
                async with bench.replica(store=store, load="bench") as ours:
                    await bench.measure(ours, turn, loads[0], store, mode=mode)
