"""The model of the session protocol: nothing is found in it, and every rule broken is.

`python -m tests.model.explore --help` walks for longer.
"""

from itertools import islice

import pytest

from tests.model.explore import CUT_SHORT, Finding, again, explore, shrunk, walk
from tests.model.protocol.configs import CONFIGS
from tests.model.protocol.controls import CONTROLS
from tests.model.protocol.rules import Rules
from tests.model.protocol.world import Config

WALKS = 60
"""In each world."""
WALKS_OF_A_CONTROL = 1500
"""At most: the first finding ends them."""


def first_finding(rules: Rules, configs: tuple[Config, ...], seed: int, walks: int) -> Finding | None:
    walked = explore(rules, configs, seed, lambda run: run < walks)
    return next((finding for finding in walked if finding is not None), None)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_no_walk_breaks_an_invariant(config: Config) -> None:
    finding = first_finding(Rules(), (config,), seed=1, walks=WALKS)
    assert finding is None, f"\n{shrunk(finding)}"


@pytest.mark.parametrize("name", CONTROLS)
def test_a_broken_rule_is_found_out(name: str) -> None:
    control = CONTROLS[name]
    assert first_finding(control.rules, control.configs, control.seed, WALKS_OF_A_CONTROL) is not None


def test_a_seed_walks_the_same_way_again() -> None:
    control = CONTROLS["no-fence"]
    first, second = (walk(control.rules, control.configs[0], seed=1) for _ in range(2))
    assert first is not None
    assert first == second


def test_shrinking_keeps_the_violation_and_every_action_that_is_left_counts() -> None:
    control = CONTROLS["superseded-without-p"]
    found = explore(control.rules, control.configs, seed=1, goes_on=lambda run: run < WALKS_OF_A_CONTROL)
    finding = next(islice((each for each in found if each is not None), 1))
    small = shrunk(finding)
    assert small.kind == finding.kind
    assert len(small.trace) < len(finding.trace)
    assert small.mode in (finding.mode, CUT_SHORT)
    for at in range(len(small.trace)):
        other = again(small, small.trace[:at] + small.trace[at + 1 :])
        assert other is None or other.kind != small.kind or len(other.trace) >= len(small.trace)
