"""Which Python measures: the quickest here of the version that runs this. `python3 benchmarks/quickest.py` prints it.

Distributions and images build Python with profiles of real programs; pyenv by default does not, and then all that is
written in Python takes 10 to 20 % more. Needs nothing but the standard library: no environment is there yet.
"""

import subprocess
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path

CANDIDATES = (Path(sys.executable), Path("/usr/local/bin/python3"), Path("/usr/bin/python3"))
GAIN = 0.95
"""Of the time of the first: who takes more is not preferred to it, the difference may be noise."""
ROUNDS = 5
"""In turn, because a machine's speed changes by more than what is looked for."""
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
PROBE = """
import ensurepip, sys, timeit
assert f"{sys.version_info.major}.{sys.version_info.minor}" == sys.argv[1]

class Item:
    def __init__(self, number):
        self.number = number

    def pair(self, other):
        return (self.number, other.number)

def work():
    items = [Item(number) for number in range(200)]
    seen = {}
    for item, other in zip(items, reversed(items)):
        seen[item.pair(other)] = b"".join((b"%d" % item.number, b"-"))
    return len(seen)

print(min(timeit.repeat(work, number=20, repeat=40)))
"""


def seconds(python: Path) -> float | None:
    """What a little work takes it; None: it is not there, another version, or makes no environments."""
    try:
        done = subprocess.run([python, "-c", PROBE, MINOR], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return float(done.stdout) if done.returncode == 0 else None


def quickest(candidates: Sequence[Path] = CANDIDATES) -> Path:
    """The first, unless another one is clearly quicker or it cannot be used."""
    first = candidates[0]
    usable = [python for python in candidates if seconds(python) is not None]
    rounds = [[seconds(python) or inf for python in usable] for _ in range(ROUNDS)]
    times = dict(zip(usable, map(min, zip(*rounds, strict=True)), strict=True))
    best = min(times, key=lambda python: times[python], default=first)
    return best if times.get(best, inf) < GAIN * times.get(first, inf) else first


if __name__ == "__main__":
    print(quickest())
