"""Rules broken one at a time: each must be found out."""

from dataclasses import dataclass

from tests.model.protocol.rules import Rules
from tests.model.protocol.world import Config


@dataclass(frozen=True)
class Control:
    """Rules with one broken, and where that shows."""

    rules: Rules
    configs: tuple[Config, ...]


CONTROLS: dict[str, Control] = {}
