"""Random walks through worlds of the session protocol, for as long as one likes; what they find is shown shrunk.

python -m tests.model.explore --seconds 60            the protocol
python -m tests.model.explore --control no-fence      the protocol with one rule broken, which must be found out
python -m tests.model.explore --seed 7 --runs 1       one walk again
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.model.protocol.configs import CONFIGS
from tests.model.protocol.controls import CONTROLS
from tests.model.protocol.invariants import Violation
from tests.model.protocol.rules import Rules
from tests.model.protocol.world import Action, Config, World

SHORTEST, LONGEST = 8, 60
"""Actions in a walk."""
MODES = 4
"""Kinds of quiet after a walk."""
CUT_SHORT = -1
"""The walk itself broke an invariant: no quiet followed."""


@dataclass(frozen=True)
class Finding:
    """A broken invariant and the actions that lead to it."""

    why: str
    rules: Rules
    config: Config
    seed: int
    mode: int
    trace: tuple[Action, ...]

    @property
    def kind(self) -> str:
        """What is broken, without the figures."""
        return "".join(letter for letter in self.why if not letter.isdigit())

    def __str__(self) -> str:
        lines = [f"{self.why}", f"  configuration {self.config.name}, seed {self.seed}, quiet {self.mode}"]
        return "\n".join(lines + [f"    {' '.join(action)}" for action in self.trace])


def walk(rules: Rules, config: Config, seed: int) -> Finding | None:
    """One random walk, and the quiet after it."""
    rng = random.Random(seed)
    world = World(rules, config)
    trace: list[Action] = []
    mode = CUT_SHORT
    try:
        for _ in range(rng.randint(SHORTEST, LONGEST)):
            actions = world.actions()
            if not actions:
                break
            (action,) = rng.choices(list(actions), list(actions.values()))
            trace.append(action)
            world.do(action)
        mode = rng.randrange(MODES)
        world.rest(mode)
    except Violation as violation:
        return Finding(str(violation), rules, config, seed, mode, tuple(trace))
    return None


def again(finding: Finding, trace: Sequence[Action]) -> Finding | None:
    """The same world led through other actions; those that are not possible are left out."""
    world = World(finding.rules, finding.config)
    done: list[Action] = []
    mode = CUT_SHORT
    try:
        for action in trace:
            if action in world.actions():
                done.append(action)
                world.do(action)
        if finding.mode != CUT_SHORT:
            mode = finding.mode
            world.rest(mode)
    except Violation as violation:
        return Finding(str(violation), finding.rules, finding.config, finding.seed, mode, tuple(done))
    return None


def shrunk(finding: Finding, seconds: float = 5.0) -> Finding:
    """The same violation with as few actions as dropping them, in halves and then one by one, leads to."""
    deadline = time.monotonic() + seconds
    size = max(1, len(finding.trace) // 2)
    while time.monotonic() < deadline:
        smaller = next(_smaller(finding, size, deadline), None)
        if smaller is not None:
            finding = smaller
        elif size == 1:
            break
        else:
            size //= 2
    return finding


def _smaller(finding: Finding, size: int, deadline: float) -> Iterator[Finding]:
    for at in range(0, len(finding.trace), size):
        if time.monotonic() > deadline:
            return
        found = again(finding, finding.trace[:at] + finding.trace[at + size :])
        if found is not None and found.kind == finding.kind and len(found.trace) < len(finding.trace):
            yield found


def explore(
    rules: Rules, configs: Sequence[Config], seed: int, goes_on: Callable[[int], bool]
) -> Iterator[Finding | None]:
    """Walk after walk, each with a seed of its own, through the configurations in turn."""
    run = 0
    while goes_on(run):
        yield walk(rules, configs[run % len(configs)], seed + run)
        run += 1


def main() -> int:
    """The command line. Its status is 1 when something was found in the protocol, or nothing in a control."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.explore", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--runs", type=int, help="how many walks, instead of a time")
    parser.add_argument("--seed", type=int, default=1, help="of the first walk; each one after it has the next")
    parser.add_argument("--config", choices=[config.name for config in CONFIGS], help="only this configuration")
    parser.add_argument("--control", choices=sorted(CONTROLS), help="break this rule, and stop when it is found out")
    options = parser.parse_args()
    control = CONTROLS.get(options.control)
    rules = control.rules if control else Rules()
    configs = control.configs if control else CONFIGS
    if options.config:
        configs = tuple(config for config in CONFIGS if config.name == options.config)
    deadline: float = time.monotonic() + options.seconds
    walks: int | None = options.runs

    def goes_on(run: int) -> bool:
        return run < walks if walks is not None else time.monotonic() < deadline

    found: dict[str, Finding] = {}
    runs = 0
    for finding in explore(rules, configs, options.seed, goes_on):
        runs += 1
        if finding is None:
            continue
        if finding.kind not in found or len(finding.trace) < len(found[finding.kind].trace):
            found[finding.kind] = shrunk(finding)
            if control:
                break
    for finding in found.values():
        print(finding)
    print(f"{runs} walks, {len(found)} kinds of violation")
    return int(bool(found) != bool(control))


if __name__ == "__main__":
    sys.exit(main())
