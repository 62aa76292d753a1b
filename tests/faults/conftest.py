"""A recorded run that the tests of this folder share."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults.history import History
from tests.faults.storm import storm
from tests.faults.tally import Tally

SEED = 20
LEAST, MOST = 8.0, 40.0
"""Seconds of misfortune."""


@pytest.fixture(scope="session")
def stormy(test_models: Path, tmp_path_factory: pytest.TempPathFactory) -> History:
    """A short run with a bit of everything: the same misfortunes each time, for the same seed."""
    history, began = History(), time.monotonic()
    tally = Tally(history)

    def enough() -> bool:
        seconds = time.monotonic() - began
        return seconds > LEAST and (tally.reached(0.005) or seconds > MOST)

    asyncio.run(storm(test_models, tmp_path_factory.mktemp("storm"), history, SEED, enough))
    return history
