"""The zoo's models on real speech: how many frames are speech, and that twins are twins."""

import wave
from pathlib import Path

import numpy as np
import pytest

from service.model.cell import Cell
from service.model.proof import doctor, load
from service.model.repository import Repository
from service.values import CellWork, Row
from tests.zoo import cell_of, good, row, stream

LIBRIVOX = Path(__file__).parent.parent.parent / "examples" / "librivox"
TWINS = ("silero_vad_16k_op15", "silero_vad_16k_sequence", "silero_vad_openvino_16k")


def frames(sentence: str) -> list[Row]:
    """The whole frames of 512 samples of a LibriVox sentence."""
    (path,) = LIBRIVOX.glob(f"*{sentence}.wav")
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    return [row(samples[at : at + 512]) for at in range(0, len(samples) - 511, 512)]


def speech(cell: Cell, sentence: str) -> np.ndarray:
    answers, _ = stream(cell, frames(sentence))
    return np.array([np.frombuffer(answer[0], np.float32)[0] for answer in answers])


@pytest.fixture(scope="module")
def zoo(models_cache: Path) -> Repository:
    return Repository([models_cache])


@pytest.mark.parametrize(("sentence", "spoken", "whole"), [("0870", 204, 221), ("0930", 85, 102)])
def test_silero_hears_speech(zoo: Repository, sentence: str, spoken: int, whole: int) -> None:
    heard = speech(load(zoo, "silero_vad"), sentence)
    assert (int((heard > 0.5).sum()), len(heard)) == (spoken, whole)


def test_silero_without_its_carry_window_hears_nothing(models_cache: Path, tmp_path: Path) -> None:
    manifest = (models_cache / "silero_vad" / "model.yaml").read_text()
    (written,) = [line for line in manifest.splitlines() if "carry:" in line]
    (graph,) = (models_cache / "silero_vad").glob("*/model.onnx")
    cell = cell_of(tmp_path, graph.read_bytes(), manifest.replace(written, ""))
    assert int((speech(cell, "0870") > 0.5).sum()) == 0


@pytest.mark.parametrize("twin", TWINS)
def test_twins_give_the_same_bits(zoo: Repository, twin: str) -> None:
    np.testing.assert_array_equal(speech(load(zoo, twin), "0930"), speech(load(zoo, "silero_vad"), "0930"))


def test_the_twin_without_if_is_within_a_millionth(zoo: Repository) -> None:
    heard, expected = (speech(load(zoo, name), "0930") for name in ("silero_vad_op18_ifless", "silero_vad"))
    assert float(np.abs(heard - expected).max()) <= 1e-6


def test_many_frames_in_one_call_are_the_same_as_one_by_one(zoo: Repository) -> None:
    cell = load(zoo, "silero_vad_16k_sequence")
    spoken = frames("0930")
    answers, state = stream(cell, spoken)
    result = good(cell.run([CellWork(cell.spec.initial_state, tuple(spoken))])[0])
    assert (list(result.rows), result.state) == (answers, state)


@pytest.mark.parametrize("name", ["silero_vad", "silero_vad_op18_ifless", "flashvad"])
def test_batched_sessions_free_running_are_each_alone(zoo: Repository, name: str) -> None:
    cell = load(zoo, name)
    random = np.random.default_rng(9)
    shape = cell.spec.inputs[0].shape
    fed = random.normal(size=(20, 7, *shape)).astype(np.float32)
    states = [cell.spec.initial_state] * 7
    together: list[list[Row]] = [[] for _ in states]
    for inputs in fed:
        results = cell.run([CellWork(state, (row(x),)) for state, x in zip(states, inputs, strict=True)])
        states = [good(result).state for result in results]
        for answers, result in zip(together, results, strict=True):
            answers += good(result).rows
    for at in range(7):
        alone, state = stream(cell, [row(inputs[at]) for inputs in fed])
        for got, expected in ((np.frombuffer(b"".join(r[0] for r in each), np.float32) for each in pair)
                              for pair in [(together[at], alone)]):  # fmt: skip
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            np.frombuffer(states[at], np.float32), np.frombuffer(state, np.float32), rtol=0, atol=1e-5
        )


def test_every_model_of_the_zoo_passes_its_proof(zoo: Repository) -> None:
    proofs = [doctor(zoo, name) for name in ("flashvad", "silero_vad", "silero_vad_op18_ifless", *TWINS)]
    assert [(proof.model, each) for proof in proofs for each in proof.checks if each.status != "ok"] == []
    assert [proof.max_batch for proof in proofs] == [64, 64, 64, 64, 1, 1]
    assert len(zoo.spec("flashvad").state) == 5
