"""The models that are measured: cells of random weights, and one that only carries a state of a given size."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from models import cells

INPUTS, OUTPUTS = 40, 8
HIDDEN = {"bench": 128, "lstm256": 256, "lstm512": 512}
CARRIED = {"carry1": 1, "carry8": 8, "carry64": 64}
"""KB of state."""


def write(repository: Path) -> None:
    """A repository with an LSTM of each size, 40 inputs and 8 outputs, and a carrier of each."""
    for name, hidden in HIDDEN.items():
        _save(repository / name, cells.build(cells.draw("lstm", INPUTS, hidden, outputs=OUTPUTS)))
    for name, kilobytes in CARRIED.items():
        _save(repository / name, carrier(kilobytes * 256))


def carrier(floats: int) -> onnx.ModelProto:
    """x [batch, 40], state [batch, floats] -> y [batch, 8], the state faded and moved by the mean of x."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["state", "fade"], ["faded"]),
        helper.make_node("Add", ["faded", "mean"], ["state_out"]),
        helper.make_node("Slice", ["state_out", "first", "last", "axis"], ["y"]),
    ]
    constants = [
        helper.make_tensor("fade", TensorProto.FLOAT, [1], [0.9]),
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
        helper.make_tensor("last", TensorProto.INT64, [1], [OUTPUTS]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]

    def value(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])

    graph = helper.make_graph(
        nodes,
        "carrier",
        [value("x", INPUTS), value("state", floats)],
        [value("y", OUTPUTS), value("state_out", floats)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _save(folder: Path, model: onnx.ModelProto) -> None:
    version = folder / "1"
    version.mkdir(parents=True)
    onnx.save(model, version / "model.onnx")
    (folder / "model.yaml").write_text("{}\n")
