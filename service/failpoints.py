"""Places where a test makes a replica fail at exactly the wrong moment. Off unless CELLWIRE_FAILPOINTS names them.

Knows how a process fails, not what is done at the places. `place=action[:seconds][@hit]`, separated by commas:
`after_send=drop,before_run=block:3@20` loses the first commit's answer and blocks the event loop at the 20th run.
"""

import os
import re
import signal
import time
from dataclasses import dataclass

PLACES = (
    "before_run",
    "after_run",
    "before_send",
    "after_send",
    "after_reply",
    "before_encode",
    "in_claim",
    "in_release",
    "in_drain",
)
"""Of a timestep: around the cell's run, the commit's sending, the store's reply, and before the answer is encoded."""
ACTIONS = ("exit", "stop", "block", "drop")
KILLED = 137
"""Exit status, as after SIGKILL."""
_SPEC = re.compile(rf"({'|'.join(PLACES)})=({'|'.join(ACTIONS)})(?::(\d+(?:\.\d+)?))?(?:@([1-9]\d*))?")


class Dropped(OSError):
    """The connection in use is to be treated as broken."""


@dataclass(slots=True)
class _Failure:
    action: str
    seconds: float
    hits_left: int


_armed: dict[str, _Failure] = {}


def parse(text: str) -> dict[str, _Failure]:
    """The failures that a setting names.

    Raises:
        ValueError: it is not one; the text says what was expected.
    """
    failures = {}
    for part in filter(None, text.split(",")):
        spec = _SPEC.fullmatch(part.strip())
        if spec is None or (spec[2] == "drop") > (spec[1] == "after_send"):
            raise ValueError(f"place=action[:seconds][@hit] with {', '.join(PLACES)} and {', '.join(ACTIONS)}")
        failures[spec[1]] = _Failure(spec[2], float(spec[3] or 0), int(spec[4] or 1))
    return failures


def arm(text: str) -> None:
    """From here on the named failures happen, each once; those before are forgotten."""
    _armed.clear()
    _armed.update(parse(text))


def hit(place: str) -> None:
    """Fails here if it is the turn of this place; free where nothing is armed.

    Raises:
        Dropped: the action is `drop`.
    """
    if _armed and place in _armed:
        _fail(place)


def _fail(place: str) -> None:
    failure = _armed[place]
    failure.hits_left -= 1
    if failure.hits_left:
        return
    del _armed[place]
    match failure.action:
        case "exit":
            os._exit(KILLED)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "block":
            time.sleep(failure.seconds)
        case "drop":
            raise Dropped
