"""Speech probability of raw 16 kHz 16-bit mono audio from standard input, 32 ms at a time.

arecord -t raw -f S16_LE -r 16000 | python examples/microphone.py localhost:50051 localhost:50052
"""

import argparse
import sys

import numpy as np

from cellwire.sync import Client

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("targets", nargs="*", default=["localhost:50051"])
frames = iter(lambda: sys.stdin.buffer.read(1024), b"")
audio = (np.frombuffer(frame.ljust(1024, b"\0"), "<i2").astype(np.float32) / 32768 for frame in frames)
with Client(parser.parse_args().targets) as client, client.session("mic-2", model="silero_vad") as session:
    for reply in session.stream(audio):
        print(f"{reply.step * 0.032:7.2f} s  {'#' * round(60 * float(reply.outputs['output'][0]))}")
