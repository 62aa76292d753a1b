"""Cells built from weights as ONNX graphs: RNN, LSTM and GRU, stacked, with a fully connected head.

Knows the ONNX operators and the layouts of weights; needs neither PyTorch nor the service. A cell takes one
timestep `x` [batch, inputs] and the state pairs `hidden` -> `hidden_out` (and `cell` -> `cell_out` for LSTM),
[layers, batch, hidden]; it gives `y` [batch, outputs].
Equations: the operators LSTM, GRU and RNN of the ONNX standard; linear_before_reset = 1 for GRU, as PyTorch has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.weights import Activation, Head, Kind, Layer, Weights, draw, from_torch

__all__ = [
    "Activation",
    "Clock",
    "Head",
    "Kind",
    "Layer",
    "Scale",
    "Weights",
    "build",
    "checked",
    "checker",
    "draw",
    "from_torch",
]

Array = np.ndarray

GATES: dict[str, tuple[str, ...]] = {
    "lstm": ("input_gate", "forget_gate", "output_gate", "candidate"),
    "gru": ("update_gate", "reset_gate", "candidate"),
    "rnn": (),
}
ONNX_ACTIVATION = {"tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu"}
OPSET, IR_VERSION = 17, 8
MODULUS, FACTOR = 2**31 - 1, 1_000_003


@dataclass(frozen=True, slots=True)
class Scale:
    """Normalisation inside the graph, so that clients speak raw units: x is (x - mean) / deviation."""

    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Clock:
    """The last column of x is a time that comes round, such as the hour of the day: it enters as sines and cosines."""

    period: float
    harmonics: int

    def columns(self, time: Array) -> Array:
        """What the cell sees of times [..]: [.., 2 * harmonics], as the graph computes it."""
        angles = np.asarray(time, np.float32)[..., np.newaxis] * self.rates
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

    @property
    def rates(self) -> Array:
        """Radians per unit of time, one a harmonic."""
        return (np.arange(1, self.harmonics + 1) * 2 * np.pi / self.period).astype(np.float32)


def build(
    weights: Weights,
    *,
    gates: bool = False,
    sequence: bool = False,
    scale: Scale | None = None,
    clock: Clock | None = None,
    residual: bool = False,
) -> onnx.ModelProto:
    """The cell as a graph of one timestep; with `sequence` the same cell over [batch, time, inputs] at once.

    `gates` adds the gates of every layer as outputs [batch, layers, hidden], computed beside the operator
    (only for one timestep). `scale` normalises x, and brings y back to raw units if the cell is `residual`:
    then its head gives only what is to be added to x, for forecasters. `clock` adds a last column to x.
    """
    if gates and sequence:
        raise ValueError("gates are of one timestep")
    graph = _Graph()
    first, x = _features(graph, scale, clock)
    x = graph.node("Transpose", x, perm=[1, 0, 2]) if sequence else graph.node("Unsqueeze", x, graph.ints([0]))
    states = ["hidden", "cell"] if weights.kind == "lstm" else ["hidden"]
    before = {name: _layer_states(graph, name, len(weights.layers)) for name in states}
    after: dict[str, list[str]] = {name: [] for name in states}
    opened: dict[str, list[str]] = {name: [] for name in GATES[weights.kind]}
    for at, layer in enumerate(weights.layers):
        starts = [before[name][at] for name in states]
        if gates:
            for name, value in _gates(graph, weights.kind, layer, x, starts[0]).items():
                opened[name].append(value)
        x, *ends = _recurrent(graph, weights, layer, x, starts)
        for name, value in zip(states, ends, strict=True):
            after[name].append(value)
    for name in states:
        graph.node("Concat", *after[name], into=f"{name}_out", axis=0)
    if gates:
        for name, values in opened.items():
            graph.node("Concat", *values, into=name, axis=1)
    x = graph.node("Transpose", x, perm=[1, 0, 2]) if sequence else graph.node("Squeeze", x, graph.ints([0]))
    x = _headed(graph, weights.head, x)
    if residual:
        x = _raw(graph, graph.node("Add", first, x), scale)
    graph.node("Identity", x, into="y")
    width = weights.layers[0].w.shape[1] - (0 if clock is None else 2 * clock.harmonics - 1)
    return _model(graph, weights, width, states, list(opened) if gates else [], sequence)


def checker() -> onnx.ModelProto:
    """A cell that counts, to prove that no timestep is lost, doubled, swapped or mixed with another session's.

    s' = (s * 1000003 + x) mod (2**31 - 1), y = s'; int64 [batch, 1], pairs `state` -> `state_out`. x is to be
    within 0 .. 2**31 - 2. It does not commute: the order of the inputs shows in every later output.
    """
    graph = _Graph()
    product = graph.node("Mul", "state", graph.ints([FACTOR]))
    graph.node("Mod", graph.node("Add", product, "x"), graph.ints([MODULUS]), into="y")
    graph.node("Identity", "y", into="state_out")
    names = [
        [_value(name, ["batch", 1], TensorProto.INT64) for name in side]
        for side in (("x", "state"), ("y", "state_out"))
    ]
    return graph.model("checker", names[0], names[1])


def checked(inputs: Sequence[int], state: int = 0) -> list[int]:
    """What `checker` answers to `inputs`, in plain numbers."""
    answers = []
    for x in inputs:
        state = (state * FACTOR + x) % MODULUS
        answers.append(state)
    return answers


class _Graph:
    """Nodes and weights in the making, with names that never collide."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, into: str = "", **attributes: Any) -> str:
        """Add a node with one output; its name."""
        return self.many(operator, inputs, [into or f"v{len(self.nodes)}"], **attributes)[0]

    def many(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Add a node with several outputs; their names."""
        name = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), list(outputs), name=name, **attributes))
        return outputs

    def floats(self, values: Array | float) -> str:
        """Add a weight; its name."""
        return self._weight(np.asarray(values, np.float32))

    def ints(self, values: Sequence[int]) -> str:
        """Add an int64 weight; its name."""
        return self._weight(np.asarray(values, np.int64))

    def _weight(self, values: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def model(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The checked model."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.weights)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, producer_name="cellwire", ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def _value(name: str, dims: Sequence[str | int], elem_type: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, list(dims))


def _features(graph: _Graph, scale: Scale | None, clock: Clock | None) -> tuple[str, str]:
    """The normalised values of x, and these with the clock's columns: what the first layer sees."""
    values = "x"
    if clock is not None:
        values = graph.node("Slice", "x", graph.ints([0]), graph.ints([-1]), graph.ints([-1]))
    if scale is not None:
        values = graph.node("Sub", values, graph.floats(scale.mean))
        values = graph.node("Div", values, graph.floats(scale.deviation))
    if clock is None:
        return values, values
    time = graph.node("Slice", "x", graph.ints([-1]), graph.ints([2**31 - 1]), graph.ints([-1]))
    angles = graph.node("Mul", time, graph.floats(clock.rates))
    return values, graph.node("Concat", values, graph.node("Sin", angles), graph.node("Cos", angles), axis=-1)


def _layer_states(graph: _Graph, name: str, layers: int) -> Sequence[str]:
    """The rows [1, batch, hidden] of a stacked state."""
    if layers == 1:
        return [name]
    parts = [f"{name}{at}" for at in range(layers)]
    return graph.many("Split", [name, graph.ints([1] * layers)], parts, axis=0)


def _recurrent(graph: _Graph, weights: Weights, layer: Layer, x: str, starts: Sequence[str]) -> tuple[str, ...]:
    """One layer over [time, batch, inputs]: its outputs [time, batch, hidden] and its last states."""
    bias = np.concatenate([layer.wb, layer.rb])
    parts = [graph.floats(part[np.newaxis]) for part in (layer.w, layer.r, bias)]
    attributes: dict[str, object] = {"hidden_size": layer.hidden}
    if weights.kind == "gru":
        attributes["linear_before_reset"] = 1
    if weights.kind == "rnn":
        attributes["activations"] = [ONNX_ACTIVATION[weights.activation]]
    names = [f"r{len(graph.nodes)}_{end}" for end in ("y", "h", "c")[: 1 + len(starts)]]
    y, *ends = graph.many(weights.kind.upper(), [x, *parts, "", *starts], names, **attributes)
    return graph.node("Squeeze", y, graph.ints([1])), *ends


def _gates(graph: _Graph, kind: Kind, layer: Layer, x: str, h: str) -> dict[str, str]:
    """The gates [batch, 1, hidden] of one layer at one timestep, from the equations of the operator."""
    wx = graph.node("Add", graph.node("MatMul", x, graph.floats(layer.w.T)), graph.floats(layer.wb))
    rh = graph.node("Add", graph.node("MatMul", h, graph.floats(layer.r.T)), graph.floats(layer.rb))
    blocks = graph.ints([layer.hidden] * (len(layer.w) // layer.hidden))
    count = len(layer.w) // layer.hidden
    base = len(graph.nodes)
    xs = graph.many("Split", [wx, blocks], [f"g{base}_x{at}" for at in range(count)], axis=2)
    hs = graph.many("Split", [rh, blocks], [f"g{base}_h{at}" for at in range(count)], axis=2)

    def gate(at: int, activation: str = "Sigmoid") -> str:
        return graph.node(activation, graph.node("Add", xs[at], hs[at]))

    if kind == "lstm":
        found = {"input_gate": gate(0), "forget_gate": gate(2), "output_gate": gate(1), "candidate": gate(3, "Tanh")}
    elif kind == "gru":
        reset = gate(1)
        candidate = graph.node("Tanh", graph.node("Add", xs[2], graph.node("Mul", reset, hs[2])))
        found = {"update_gate": gate(0), "reset_gate": reset, "candidate": candidate}
    else:
        found = {}
    return {name: graph.node("Transpose", value, perm=[1, 0, 2]) for name, value in found.items()}


def _headed(graph: _Graph, head: Head | None, x: str) -> str:
    if head is None:
        return x
    return graph.node("Add", graph.node("MatMul", x, graph.floats(head.w.T)), graph.floats(head.b))


def _raw(graph: _Graph, x: str, scale: Scale | None) -> str:
    if scale is None:
        return x
    return graph.node("Add", graph.node("Mul", x, graph.floats(scale.deviation)), graph.floats(scale.mean))


def _model(
    graph: _Graph, weights: Weights, width: int, states: Sequence[str], gates: Sequence[str], sequence: bool
) -> onnx.ModelProto:
    last = weights.layers[-1].hidden
    outputs = last if weights.head is None else len(weights.head.w)
    step: list[str | int] = ["batch", "time"] if sequence else ["batch"]
    state: list[str | int] = [len(weights.layers), "batch", last]
    return graph.model(
        weights.kind,
        [_value("x", [*step, width]), *(_value(name, state) for name in states)],
        [
            _value("y", [*step, outputs]),
            *(_value(f"{name}_out", state) for name in states),
            *(_value(name, ["batch", len(weights.layers), last]) for name in gates),
        ],
    )
