"""Which versions of models are served: one that cannot be takes nothing from the others."""

from pathlib import Path

import pytest

from models.cells import checker
from service.admission import Rate
from service.cells import Cells
from service.errors import ModelNotHere, ModelUnknown
from service.model.repository import Repository
from tests.zoo import graph, write

STATE = "state: [{input: state, initial: 7}]"
WITHOUT = graph("(float[batch,2] x) => (float[batch,2] y)", "y = Identity(x)")
"""Has no input `state`: the manifest of both does not fit it."""
BROKEN = graph("(float[batch,2] x) => (float[batch,2] y)", "shape = Constant<value_ints=[3]>()\ny = Expand(x, shape)")
"""Fits a manifest that says nothing, and gives another shape than it declares."""


def cells(repository: Repository) -> Cells:
    return Cells(repository, (), 0.03, Rate(0))


async def test_an_older_version_whose_contract_cannot_be_read_leaves_the_newest_served(tmp_path: Path) -> None:
    write(tmp_path, WITHOUT, STATE, version="1")
    async with cells(write(tmp_path, checker(), STATE, version="2")) as served:
        assert served.names() == ["small"]
        assert served.versions("small") == ("2",)
        assert (await served.get("small")).spec.version == "2"
        with pytest.raises(ModelUnknown):
            await served.get("small", "1")


async def test_a_model_whose_newest_version_is_refused_is_not_served(tmp_path: Path) -> None:
    write(tmp_path, checker(), STATE, version="1")
    async with cells(write(tmp_path, WITHOUT, STATE, version="2")) as served:
        assert (served.names(), served.versions("small")) == ([], ())
        with pytest.raises(ModelUnknown):
            await served.get("small")


async def test_a_version_that_fails_its_proof_is_proved_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, BROKEN, version="1")
    async with cells(write(tmp_path, checker(), version="2")) as served:
        assert served.versions("small") == ("1", "2")
        key = next(key for key in served.served if key.startswith("small/1/"))
        for _ in range(2):
            with pytest.raises(ModelUnknown):
                await served.get("small", "1")
            assert served.versions("small") == ("2",)
            with pytest.raises(ModelNotHere):
                await served.of_session(key)
