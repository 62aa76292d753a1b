"""Forecast the next hour's water flow from a feed of hourly readings, as a gateway would: one row, one timestep.

.venv/bin/cellwire serve --embedded-store &
.venv/bin/python examples/sensor_feed.py examples/water-flow.csv
"""

import argparse
import asyncio
import csv
from collections.abc import AsyncIterator, Iterable

from cellwire.client import Client
from cellwire.tensors import Frame


async def readings(rows: Iterable[dict[str, str]], seconds: float) -> AsyncIterator[Frame]:
    """[flow in l/s, hour of the day] of each row, one every so many seconds."""
    for row in rows:
        yield [float(row["flow"]), float(row["hour"])]
        await asyncio.sleep(seconds)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=argparse.FileType(), help="columns flow and hour")
    parser.add_argument("--target", action="append", help="a replica; may be given again")
    parser.add_argument("--seconds", type=float, default=0.0, help="between two readings (default: none)")
    arguments = parser.parse_args()
    async with Client(arguments.target or ["localhost:50051"]) as client:
        # kept: the sensor's memory is there when the feed comes back, on whichever replica
        async with client.session("pipeline-7", model="water_flow", keep=True) as session:
            async for reply in session.stream(readings(csv.DictReader(arguments.csv), arguments.seconds)):
                print(f"hour {reply.step}: the next one {float(reply.outputs['y'][0]):.2f} l/s")


if __name__ == "__main__":
    asyncio.run(main())
