"""A recorded run that the tests of this folder share, and a stage for a fault of their own."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from cellwire.cli.children import Children
from tests.faults.history import History
from tests.faults.scene import Stage, staged
from tests.faults.stores import Pair
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


@pytest.fixture
def pair_options() -> dict[str, Any]:
    """Of `pair`: a module or a test may have others."""
    return {}


@pytest.fixture
async def pair(children: Children, pair_options: dict[str, Any]) -> AsyncIterator[Pair]:
    """A primary and its replica, for the test to break."""
    async with Pair(children, **pair_options) as pair:
        yield pair


@pytest.fixture
def stage(
    test_models: Path, tmp_path: Path, children: Children, pair: Pair
) -> Callable[..., AbstractAsyncContextManager[Stage]]:
    """The stage on `pair`, to be entered."""

    def made(**settings: Any) -> AbstractAsyncContextManager[Stage]:
        return staged(test_models, tmp_path, children, pair, **settings)

    return made
