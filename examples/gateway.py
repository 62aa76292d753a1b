"""A gateway that merges the readings of 1,000 sensors into one stream, and forecasts the next hour of each.

.venv/bin/cellwire serve --embedded-store &
.venv/bin/python examples/gateway.py examples/water-flow.csv
"""

import argparse
import asyncio
import csv
import time
from collections.abc import AsyncIterator

from cellwire.client import Client
from cellwire.many import Batch
from cellwire.replies import Reply


async def readings(rows: list[dict[str, str]], names: list[str], hours: int, seconds: float) -> AsyncIterator[Batch]:
    """[flow in l/s, hour of the day] of every sensor, one batch every so many seconds; each began another day."""
    for hour in range(hours):
        yield {
            name: [float(row["flow"]), float(row["hour"])]
            for at, name in enumerate(names)
            for row in [rows[(24 * at + hour) % len(rows)]]
        }
        await asyncio.sleep(seconds)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=argparse.FileType(), help="columns flow and hour")
    parser.add_argument("--target", action="append", help="a replica; may be given again")
    parser.add_argument("--sensors", type=int, default=1000)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=0.0, help="between two readings (default: none)")
    arguments = parser.parse_args()
    names = [f"pipeline-{at}" for at in range(arguments.sensors)]
    rows = list(csv.DictReader(arguments.csv))
    async with Client(arguments.target or ["localhost:50051"]) as client, client.many() as sensors:
        # kept: each sensor's memory is there when the gateway comes back, on whichever replica
        for name, failure in (await sensors.open(names, model="water_flow", keep=True)).items():
            print(f"{name}: {failure}")
        began, count = time.monotonic(), 0
        feed = readings(rows, list(sensors), arguments.hours, arguments.seconds)
        async for name, answer in sensors.stream(feed):
            if not isinstance(answer, Reply):
                print(f"{name}: {answer}")  # this sensor's own: the others go on
            elif name == names[0]:
                print(f"{name}, hour {answer.step}: the next one {float(answer.outputs['y'][0]):.2f} l/s")
            count += 1
        print(f"{count} forecasts for {len(sensors)} sensors in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
