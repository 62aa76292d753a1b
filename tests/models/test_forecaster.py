"""The forecaster that ships with Cellwire: its committed file's error on hours that it never saw."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from models.catalogue import TRAINED
from service.model.proof import doctor, load
from service.model.repository import Repository
from tests.zoo import row, stream

SERIES = Path(__file__).parent.parent.parent / "examples" / "water-flow.csv"
UNSEEN_FROM = 0.75


def test_it_beats_the_last_value_clearly_and_as_its_readme_says() -> None:
    with SERIES.open(newline="") as file:
        feed = np.array([[float(each["flow"]), float(each["hour"])] for each in csv.DictReader(file)], np.float32)
    cell = load(Repository([TRAINED]), "water_flow")
    answers, _ = stream(cell, [row(each) for each in feed[:-1]])
    said = np.array([np.frombuffer(answer[0], np.float32)[0] for answer in answers])
    unseen = slice(int(len(feed) * UNSEEN_FROM), None)
    errors, last_value = (said - feed[1:, 0])[unseen], (feed[:-1, 0] - feed[1:, 0])[unseen]
    assert float(np.abs(errors).mean()) < 0.8 * float(np.abs(last_value).mean())
    assert float(np.sqrt((errors**2).mean())) < 0.8 * float(np.sqrt((last_value**2).mean()))
    stated = re.findall(r"\| (?:forecaster|last value) \| ([0-9.]+) \| ([0-9.]+) \|", _readme())
    measured = [(np.abs(each).mean(), np.sqrt((each**2).mean())) for each in (errors, last_value)]
    assert [tuple(map(float, each)) for each in stated] == [pytest.approx(each, abs=6e-4) for each in measured]


def test_it_is_small_and_passes_its_proof() -> None:
    proof = doctor(Repository([TRAINED]), "water_flow")
    assert [each for each in proof.checks if each.status != "ok"] == []
    assert (TRAINED / "water_flow" / "1" / "model.onnx").stat().st_size < 1_000_000


def _readme() -> str:
    return (TRAINED / "water_flow" / "README.md").read_text()
