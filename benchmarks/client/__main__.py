"""The client of a measurement: `python -m benchmarks.client`, its task as JSON on standard input.

Prints what it saw, as JSON, or fails with the reason as the last line.
"""

import sys

import uvloop

from benchmarks.client.meter import Meter
from benchmarks.client.other_talks import talks
from benchmarks.client.programs import Load
from benchmarks.client.task import Task, Told


async def run(task: Task) -> Told:
    make_talk, meter = talks(task.dialect, task.shape, task.reply_bytes), Meter(task.watch)
    if task.library:
        from benchmarks.client.library import closed  # grpc is slow to import

        return await closed(task, make_talk, meter)
    return await Load(task, make_talk, meter).run()


if __name__ == "__main__":
    print(uvloop.run(run(Task.from_json(sys.stdin.read()))).to_json())
