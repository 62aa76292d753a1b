"""Small graphs and repositories for the tests of models."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from service.model.cell import Cell
from service.model.device import Host
from service.model.repository import Repository
from service.values import CellResult, CellWork, Row


def graph(signature: str, body: str, *, opset: str = '"" : 17', producer: str = "") -> onnx.ModelProto:
    """A model from ONNX's own text form: `(float[batch,2] x) => (float[batch,2] y)` and its nodes."""
    text = f"<ir_version: 8, opset_import: [{opset}]>\nsmall {signature} {{ {body} }}"
    model = onnx.parser.parse_model(text)
    model.producer_name = producer
    return model


def write(
    root: Path, model: onnx.ModelProto | bytes, manifest: str = "", *, name: str = "small", version: str = "1"
) -> Repository:
    """Put one version of a model under `root`; the repository."""
    folder = root / name / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    (root / name / "model.yaml").write_text(manifest)
    return Repository([root])


def cell_of(root: Path, model: onnx.ModelProto | bytes, manifest: str = "", *, host: Host | None = None) -> Cell:
    """The cell of a model, without its proof."""
    return Cell(*write(root, model, manifest).open("small"), host)


def row(*arrays: np.ndarray) -> Row:
    """One timestep's inputs."""
    return tuple(array.tobytes() for array in arrays)


def good(result: object) -> CellResult:
    """The result, which is none of the errors."""
    assert isinstance(result, CellResult), result
    return result


def stream(cell: Cell, rows: list[Row], constants: Row = ()) -> tuple[list[Row], bytes]:
    """Every output and the last state of one session, one timestep a call."""
    state, answers = cell.spec.initial_state, list[Row]()
    for each in rows:
        result = good(cell.run([CellWork(state, (each,), constants)])[0])
        state = result.state
        answers += result.rows
    return answers, state
