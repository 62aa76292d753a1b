"""Two clients without async: one streams, one makes single calls; both survive the loss of a replica.

python examples/sync_client.py localhost:50051 localhost:50052
"""

import argparse
from secrets import token_hex

import numpy as np

from cellwire.resume import ResumePoint
from cellwire.sync import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=["localhost:50051"], help="replicas of one service")
    with Client(parser.parse_args().targets) as client:
        silence = np.zeros(512, np.float32)
        with client.session(f"stream-{token_hex(4)}", model="silero_vad") as session:
            for reply in session.stream(silence for _ in range(10)):
                print("stream", reply.step, float(reply.outputs["output"][0]))

        point = ResumePoint.new(f"calls-{token_hex(4)}", "silero_vad")
        for _ in range(10):
            reply, point = client.step(point, silence)  # all that the next call needs; point.to_json() keeps it
            print("call", reply.step, float(reply.outputs["output"][0]))
        with client.session(resume=point):
            pass  # leaving it closes it; else it is forgotten when it has been idle for long


if __name__ == "__main__":
    main()
