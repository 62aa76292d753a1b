"""Where a graph runs: as its manifest or the replica says, and what happens where that cannot be."""

from pathlib import Path

import onnxruntime
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from models.cells import build, draw
from service.model.cell import Cell
from service.model.proof import load
from service.model.provider import CPU, CUDA, Execution
from service.model.repository import Repository
from service.model.wiring import ModelRefused
from service.settings import BadSettings, CannotStart
from service.settings import load as settings
from tests.harness import Place, replica
from tests.zoo import graph, write

LSTM = build(draw("lstm", 3, 5, outputs=2))
NO_CUDA = pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA")


def repository(root: Path, manifest: str, execution: Execution) -> Repository:
    write(root, LSTM, manifest)
    return Repository([root], execution)


def fallbacks() -> float:
    return REGISTRY.get_sample_value("cellwire_provider_fallbacks_total", {"model": "small"}) or 0.0


@NO_CUDA
@pytest.mark.parametrize(("manifest", "execution"), [("provider: cuda", Execution()), ("", Execution("cuda"))])
def test_a_provider_that_is_not_here_is_refused_in_one_line(
    tmp_path: Path, manifest: str, execution: Execution
) -> None:
    refusal = rf"^small/1: provider: one of \[.*'{CPU}'\] expected, not {CUDA}$"
    with pytest.raises(ModelRefused, match=refusal):
        repository(tmp_path, manifest, execution).open("small")


@NO_CUDA
def test_a_fallback_that_is_allowed_is_said_and_counted(tmp_path: Path) -> None:
    before = fallbacks()
    with capture_logs() as lines:
        cell = load(repository(tmp_path, "provider: cuda", Execution(fallback=True)), "small")
    assert cell.spec.provider == CPU
    (line,) = [line for line in lines if line["event"] == "model.fallback"]
    assert (line["log_level"], line["model"], line["provider"]) == ("warning", "small/1", CPU)
    assert CUDA in line["why"]
    assert fallbacks() == before + 1


@NO_CUDA
def test_a_graph_that_runs_nowhere_is_refused_and_has_not_fallen_back(tmp_path: Path) -> None:
    before = fallbacks()
    write(tmp_path, graph("(float[batch,2] x) => (float[batch,2] y)", "y = MatMul(x, nowhere)"))
    with pytest.raises(ModelRefused, match="ONNX Runtime refuses the graph"):
        Repository([tmp_path], Execution("cuda", fallback=True)).open("small")
    assert fallbacks() == before


def test_the_replica_decides_over_the_manifest(tmp_path: Path) -> None:
    cell = Cell(*repository(tmp_path, "provider: cuda", Execution("cpu")).open("small"))
    assert cell.spec.provider == CPU


def test_a_session_may_go_on_under_another_provider(tmp_path: Path) -> None:
    """The provider and its options are in no digest: a state is numbers, wherever they were computed."""
    manifests = ("", "provider: cuda", "provider: cuda\ncuda: {tf32: true, conv_search: exhaustive}")
    digests = {repository(tmp_path, manifest, Execution()).spec("small").digest for manifest in manifests}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "manifest", ["provider: rocm", "cuda: {tf32: 1}", "cuda: {conv_search: best}", "cuda: {memory: 1}"]
)
def test_what_a_manifest_cannot_say_of_providers_is_refused(tmp_path: Path, manifest: str) -> None:
    with pytest.raises(ModelRefused, match=r"^small: .*(provider|cuda)"):
        repository(tmp_path, manifest, Execution()).open("small")


def test_settings_reach_the_provider() -> None:
    told = settings(provider="cuda", provider_fallback=True, cuda_device=1, cuda_memory_bytes=1 << 30)
    assert Execution.of(told) == Execution("cuda", True, 1, 1 << 30)
    with pytest.raises(BadSettings, match="CELLWIRE_PROVIDER"):
        settings(provider="rocm")


@NO_CUDA
async def test_a_replica_without_the_provider_does_not_start_unless_it_may_fall_back(place: Place) -> None:
    with pytest.raises(CannotStart, match="lstm"):
        async with replica(place, provider="cuda", load="lstm"):
            pass
    async with replica(place, provider="cuda", load="lstm", provider_fallback=True) as server:
        cell = await server.cells.get("lstm")
        assert cell.spec.provider == CPU
