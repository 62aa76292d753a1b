"""Models on disk: what is found, what a digest covers, and what is refused before ONNX Runtime sees it."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.cells import build, checker, draw
from service.errors import ModelUnknown
from service.model.cell import Cell
from service.model.repository import Repository
from service.model.wiring import ModelRefused
from service.values import CellWork
from tests.zoo import good, graph, row, write

IDENTITY = graph("(float[batch,2] x) => (float[batch,2] y)", "y = Identity(x)")


def test_versions_go_from_oldest_to_newest_with_numbers_as_numbers(tmp_path: Path) -> None:
    for version in ("10", "9", "1.2.10", "1.2.9", "2"):
        repository = write(tmp_path, IDENTITY, version=version)
    assert repository.versions("small") == ("1.2.9", "1.2.10", "2", "9", "10")
    assert repository.spec("small").version == "10"
    assert repository.spec("small", "2").version == "2"


def test_names_are_those_of_folders_with_a_version(tmp_path: Path) -> None:
    repository = write(tmp_path, IDENTITY, name="b")
    write(tmp_path, IDENTITY, name="a")
    write(tmp_path, IDENTITY, name=".hidden")
    (tmp_path / "empty" / "1").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    assert repository.names() == ("a", "b")
    assert Repository([tmp_path / "nowhere"]).names() == ()


def test_the_first_root_with_a_name_serves_it(tmp_path: Path) -> None:
    write(tmp_path / "first", IDENTITY, version="1")
    write(tmp_path / "second", IDENTITY, version="2")
    write(tmp_path / "second", IDENTITY, name="other")
    repository = Repository([tmp_path / "first", tmp_path / "second"])
    assert (repository.names(), repository.versions("small")) == (("other", "small"), ("1",))


@pytest.mark.parametrize("name", ["none", "", ".", "..", "../small", "small/1", "s" * 65, "sm\0all", "small\n", "é"])
def test_an_unknown_model_or_version_is_model_unknown(tmp_path: Path, name: str) -> None:
    repository = write(tmp_path, IDENTITY)
    with pytest.raises(ModelUnknown):
        repository.open(name)
    if name:
        with pytest.raises(ModelUnknown):
            repository.open("small", name)


def test_a_model_without_a_manifest_is_what_its_graph_tells(tmp_path: Path) -> None:
    repository = write(tmp_path, checker())
    (tmp_path / "small" / "model.yaml").unlink()
    assert [(each.name, each.output) for each in repository.spec("small").state] == [("state", "state_out")]


def test_the_digest_is_of_the_graph_and_the_state_contract(tmp_path: Path) -> None:
    model = checker()
    plain = write(tmp_path / "a", model).spec("small").digest
    assert len(plain) == 16
    assert write(tmp_path / "b", model, "max_batch: 8\nidle_ttl: 9\ndescription: same").spec("small").digest == plain
    other = checker()
    other.doc_string = "another file"
    texts = [
        "state: [{input: state, initial: 7}]",
        "inputs: [{name: x, carry: {length: 1}, shape: [1], batch_axis: 0}]",
    ]
    wide = graph("(int64[batch,2] x) => (int64[batch,2] y)", "y = Identity(x)")
    digests = {
        plain,
        write(tmp_path / "c", other).spec("small").digest,
        write(tmp_path / "d", model, texts[0]).spec("small").digest,
        write(tmp_path / "e", wide).spec("small").digest,
        write(tmp_path / "f", wide, texts[1]).spec("small").digest,
    }
    assert len(digests) == 5


def external(root: Path, location: str) -> Repository:
    """A model y = x + w whose w lies in another file."""
    model = graph("(float[batch,2] x) => (float[batch,2] y)", "y = Add(x, w)")
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    weight.external_data.add(key="length", value="8")
    model.graph.initializer.append(weight)
    return write(root, model)


def added(repository: Repository) -> object:
    spec, session = repository.open("small")
    work = CellWork(b"", (row(np.zeros(2, np.float32)),))
    return np.frombuffer(good(Cell(spec, session).run([work])[0]).rows[0][0], np.float32).tolist()


def test_external_data_beside_the_graph_is_served_and_in_the_digest(tmp_path: Path) -> None:
    repository = external(tmp_path, "weights.bin")
    weights = tmp_path / "small" / "1" / "weights.bin"
    weights.write_bytes(np.array([1, 2], np.float32).tobytes())
    before = repository.spec("small").digest
    assert added(repository) == [1, 2]
    weights.write_bytes(np.array([1, 3], np.float32).tobytes())
    assert added(repository) == [1, 3]
    assert repository.spec("small").digest != before


@pytest.mark.parametrize("location", ["../weights.bin", "link.bin", "folder/weights.bin", "/absolute", "a\\b", "C:/w",
                                      "C:w", ".", "", "sub/../weights.bin", "w\0"])  # fmt: skip
def test_external_data_from_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    outside = tmp_path / "small" / "weights.bin"
    repository = external(tmp_path, str(outside) if location == "/absolute" else location)
    outside.write_bytes(bytes(8))
    folder = tmp_path / "small" / "1"
    (folder / "weights.bin").write_bytes(bytes(8))
    (folder / "link.bin").symlink_to(outside)
    (folder / "folder").symlink_to(outside.parent)
    (folder / "sub").mkdir()
    (folder / "a\\b").write_bytes(bytes(8))
    with pytest.raises(ModelRefused, match="external data: a plain path inside the version's folder expected"):
        repository.open("small")


def test_external_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"external data: the file 'weights\.bin' expected beside the graph"):
        external(tmp_path, "weights.bin").open("small")


def test_external_data_of_a_tensor_within_an_attribute_is_seen(tmp_path: Path) -> None:
    hidden = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="../weights.bin")
    model = graph("(float[batch,2] x) => (float[batch,2] y)", "y = Identity(x)")
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=hidden))
    with pytest.raises(ModelRefused, match="external data"):
        write(tmp_path, model).open("small")


def test_a_version_behind_symbolic_links_is_served(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: every file is a link through `..data`."""
    real = tmp_path / "real"
    external(real, "weights.bin")
    (real / "small" / "1" / "weights.bin").write_bytes(np.array([1, 2], np.float32).tobytes())
    mount = tmp_path / "mount" / "small"
    (mount / "1").mkdir(parents=True)
    (mount / "1" / "..2026").symlink_to(real / "small" / "1")
    (mount / "1" / "..data").symlink_to("..2026")
    for name in ("model.onnx", "weights.bin"):
        (mount / "1" / name).symlink_to(os.path.join("..data", name))
    (mount / "2").symlink_to("1")
    repository = Repository([tmp_path / "mount"])
    assert repository.versions("small") == ("1", "2")
    assert added(repository) == [1, 2]


@pytest.mark.parametrize(
    "model",
    [
        graph("(float[batch,2] x) => (float[batch,2] y)", "y = custom.Shell(x)", opset='"" : 17, "custom" : 1'),
        graph("(float[batch,2] x) => (float[batch,2] y)", "y = com.microsoft.ReadFile(x)",
              opset='"" : 17, "com.microsoft" : 1'),
        graph("(float[batch,2] x) => (float[batch,2] y)", "y = NoSuchOperator(x)"),
        graph("(float[batch,2] x) => (float[batch,2] y)",
              "c = Constant<value = bool {1}>() y = If(c)"
              " <then_branch = a () => (float[batch,2] p) { p = Identity(x) },"
              " else_branch = b () => (float[batch,2] q) { q = custom.Shell(x) }>",
              opset='"" : 17, "custom" : 1'),
    ],
)  # fmt: skip
def test_an_operator_that_is_not_standard_is_refused_in_subgraphs_too(tmp_path: Path, model: onnx.ModelProto) -> None:
    with pytest.raises(ModelRefused, match=r"operator .* is not served"):
        write(tmp_path, model).open("small")


def test_operators_of_onnx_runtime_and_functions_of_the_model_are_served(tmp_path: Path) -> None:
    fused = graph(
        "(float[batch,2] x) => (float[batch,2] y)", "y = com.microsoft.Gelu(x)", opset='"" : 17, "com.microsoft" : 1'
    )
    write(tmp_path / "fused", fused).open("small")
    own = graph("(float[batch,2] x) => (float[batch,2] y)", "y = mine.Twice(x)", opset='"" : 17, "mine" : 1')
    own.functions.append(
        helper.make_function(
            "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
        )
    )
    write(tmp_path / "own", own).open("small")
    own.functions[0].node[0].domain = "custom"
    with pytest.raises(ModelRefused, match="custom::Add"):
        write(tmp_path / "custom", own).open("small")


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x08"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelRefused, match="an ONNX file"):
        write(tmp_path, content).open("small")


def test_a_graph_that_onnx_runtime_refuses_is_refused_in_one_line(tmp_path: Path) -> None:
    broken = graph("(float[batch,2] x) => (float[batch,2] y)", "y = MatMul(x, nowhere)")
    with pytest.raises(ModelRefused, match=r"^small/1: ONNX Runtime refuses the graph: ") as refusal:
        write(tmp_path, broken).open("small")
    assert "\n" not in str(refusal.value)


def test_a_session_runs_on_one_thread_without_spinning(tmp_path: Path) -> None:
    _, session = write(tmp_path, build(draw("gru", 2, 4))).open("small")
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.set_denormal_as_zero") == "0"
