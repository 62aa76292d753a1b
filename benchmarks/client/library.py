"""The closed loop through `grpc.aio`, as most Python clients have it: for latencies as an application sees them."""

import asyncio
from collections.abc import Callable

import grpc

from benchmarks.client.meter import Meter
from benchmarks.client.streams import clock
from benchmarks.client.talk import Talk
from benchmarks.client.task import Task, Told

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


async def closed(task: Task, make_talk: Callable[[str], Talk], meter: Meter) -> Told:
    """As the program of this name; streams only."""
    channels = [
        grpc.aio.insecure_channel(task.target, options=OWN_CONNECTION)
        for _ in range(min(task.connections, task.streams))
    ]

    async def stream(at: int) -> None:
        talk = make_talk(f"{task.prefix}-{at}")
        call = channels[at % len(channels)].stream_stream(talk.path)()
        opening = talk.opening()
        if opening is not None:
            await call.write(opening)
            assert talk.opened(await call.read())
        number = 0
        while True:
            number += 1
            sent = clock()
            await call.write(talk.message(number))
            steps = talk.complete(await call.read(), number)
            assert steps is not None
            meter.answered(clock() - sent, steps)

    streams = [asyncio.create_task(stream(at)) for at in range(task.streams)]
    await asyncio.sleep(task.warm)
    for each in streams:
        if each.done():
            each.result()
    meter.begin()
    await asyncio.sleep(task.seconds)
    told = meter.end()
    for each in streams:
        each.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return told
