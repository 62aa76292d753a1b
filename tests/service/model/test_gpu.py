"""A cell on CUDA against the same cell on the CPU. Needs onnxruntime-gpu and a device, and is skipped without."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from models.cells import build, draw
from service.model.cell import Cell
from service.model.proof import load
from service.model.provider import CUDA, Execution
from service.model.repository import Repository
from service.values import CellWork
from tests.zoo import good, row, write

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        CUDA not in onnxruntime.get_available_providers(), reason="no CUDA: onnxruntime-gpu and a device are needed"
    ),
]

TOLERANCE = 1e-5
"""Of one step on CUDA against the same on the CPU, times max(1, |value|), as docs/models.md says."""
KINDS = pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])


def on(root: Path, provider: str, model: onnx.ModelProto, manifest: str = "") -> Cell:
    write(root, model, manifest)
    return load(Repository([root], Execution(provider)), "small")


def work(cell: Cell, count: int, seed: int) -> list[CellWork]:
    random = np.random.default_rng(seed)
    states = random.normal(size=(count, cell.spec.state_bytes // 4)).astype(np.float32)
    inputs = random.normal(size=(count, *cell.spec.inputs[0].shape)).astype(np.float32)
    return [CellWork(state.tobytes(), (row(x),)) for state, x in zip(states, inputs, strict=True)]


def close(one: bytes, other: bytes) -> None:
    a, b = np.frombuffer(one, np.float32), np.frombuffer(other, np.float32)
    assert np.all(np.abs(a - b) <= TOLERANCE * np.maximum(1, np.abs(b)))


@KINDS
@pytest.mark.parametrize("count", [1, 3, 64])
def test_cuda_gives_the_numbers_of_the_cpu_and_the_same_each_time(tmp_path: Path, kind: str, count: int) -> None:
    model = build(draw(kind, 40, 128, layers=2, outputs=8))  # type: ignore[arg-type]
    cuda, cpu = on(tmp_path, "cuda", model), on(tmp_path, "cpu", model)
    each = work(cpu, count, seed=count)
    first, again, expected = cuda.run(each), cuda.run(each), cpu.run(each)
    assert first == again
    for one, other in zip(first, expected, strict=True):
        close(good(one).state, good(other).state)
        close(good(one).rows[0][0], good(other).rows[0][0])


@KINDS
def test_cuda_batches(tmp_path: Path, kind: str) -> None:
    """The proof at load compares a batch with its members alone, and would have given batches up."""
    model = build(draw(kind, 40, 128, outputs=8))  # type: ignore[arg-type]
    assert on(tmp_path, "cuda", model, "max_batch: 64").spec.max_batch == 64


def test_a_session_goes_on_where_another_provider_left_it(tmp_path: Path) -> None:
    model = build(draw("lstm", 40, 128, outputs=8))
    cells = [on(tmp_path, provider, model) for provider in ("cpu", "cuda")]
    assert len({cell.spec.key for cell in cells}) == 1
    states, unmoved = [cells[0].spec.initial_state], [cells[0].spec.initial_state]
    for step in range(20):
        (each,) = work(cells[0], 1, seed=step)
        states.append(good(cells[step % 2].run([each._replace(state=states[-1])])[0]).state)
        unmoved.append(good(cells[0].run([each._replace(state=unmoved[-1])])[0]).state)
    close(states[-1], unmoved[-1])


def test_what_a_session_on_cuda_computes_on_the_cpu_is_of_this_call(tmp_path: Path) -> None:
    """cuDNN has no GRU with linear_before_reset = 0; what the CPU reads is copied back to it when it is bound."""
    model = build(draw("gru", 4, 16, outputs=2))
    (gru,) = [node for node in model.graph.node if node.op_type == "GRU"]
    (attribute,) = [each for each in gru.attribute if each.name == "linear_before_reset"]
    attribute.i = 0
    cuda, cpu = on(tmp_path, "cuda", model), on(tmp_path, "cpu", model)
    for seed in range(5):
        each = work(cpu, 3, seed)
        for one, other in zip(cuda.run(each), cpu.run(each), strict=True):
            close(good(one).state, good(other).state)


def test_the_device_and_its_memory_are_as_set(tmp_path: Path) -> None:
    write(tmp_path, build(draw("lstm", 4, 16, outputs=2)), "provider: cuda\ncuda: {tf32: true}")
    _, session = Repository([tmp_path], Execution(cuda_memory=1 << 28)).open("small")
    told = session.get_provider_options()[CUDA]
    assert (told["device_id"], told["gpu_mem_limit"], told["use_tf32"]) == ("0", str(1 << 28), "1")
    assert told["cudnn_conv_algo_search"] == "HEURISTIC"
