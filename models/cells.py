"""Cells built from weights as ONNX graphs: RNN, LSTM and GRU, stacked, with a fully connected head.

Knows the ONNX operators and the layouts of weights; needs neither PyTorch nor the service. A cell takes one
timestep `x` [batch, inputs] and the state pairs `hidden` -> `hidden_out` (and `cell` -> `cell_out` for LSTM),
[layers, batch, hidden]; it gives `y` [batch, outputs].
Equations: the operators LSTM, GRU and RNN of the ONNX standard; linear_before_reset = 1 for GRU, as PyTorch has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Kind = Literal["rnn", "lstm", "gru"]
Activation = Literal["tanh", "sigmoid", "relu"]
Array = np.ndarray

GATES: dict[str, tuple[str, ...]] = {
    "lstm": ("input_gate", "forget_gate", "output_gate", "candidate"),
    "gru": ("update_gate", "reset_gate", "candidate"),
    "rnn": (),
}
ONNX_ACTIVATION = {"tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu"}
# rows of ONNX's blocks in PyTorch's order: LSTM i f g o -> i o f c, GRU r z n -> z r h
FROM_TORCH = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
OPSET, IR_VERSION = 17, 8
MODULUS, FACTOR = 2**31 - 1, 1_000_003


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer in ONNX's order of blocks (RNN: i; LSTM: i o f c; GRU: z r h), float32.

    `w` [blocks*hidden, inputs], `r` [blocks*hidden, hidden], `wb` and `rb` [blocks*hidden].
    """

    w: Array
    r: Array
    wb: Array
    rb: Array

    @property
    def hidden(self) -> int:
        """The size of the layer's hidden state."""
        return int(self.r.shape[1])


@dataclass(frozen=True, slots=True)
class Head:
    """A fully connected layer: y = h @ w.T + b, `w` [outputs, hidden], `b` [outputs]."""

    w: Array
    b: Array


@dataclass(frozen=True, slots=True)
class Scale:
    """Normalisation inside the graph, so that clients speak raw units: x is (x - mean) / deviation."""

    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole cell in numbers."""

    kind: Kind
    layers: tuple[Layer, ...]
    head: Head | None = None
    activation: Activation = "tanh"
    """Of an RNN; LSTM and GRU have their own."""


def from_torch(
    kind: Kind,
    state_dict: Mapping[str, Array],
    *,
    head: str | None = None,
    prefix: str = "",
    activation: Activation = "tanh",
) -> Weights:
    """Weights from the arrays of an `nn.RNN`, `nn.LSTM` or `nn.GRU` (names begin with `prefix`).

    `head` names the `nn.Linear` after it, for example "head"; without it the cell gives its hidden state.
    """
    layers: list[Layer] = []
    while f"{prefix}weight_ih_l{len(layers)}" in state_dict:
        if f"{prefix}weight_ih_l{len(layers)}_reverse" in state_dict:
            raise ValueError("a cell that also runs backwards in time cannot stream")
        names = [f"{prefix}{part}_l{len(layers)}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        no_bias = np.zeros(len(state_dict[names[1]]), np.float32)  # what bias=False leaves out
        arrays = [_reorder(kind, np.asarray(state_dict.get(name, no_bias))) for name in names]
        layers.append(Layer(*arrays))
    if not layers:
        raise ValueError(f"weights named {prefix}weight_ih_l0 and so on expected")
    linear = None
    if head is not None:
        w = np.asarray(state_dict[f"{head}.weight"], np.float32)
        b = np.asarray(state_dict.get(f"{head}.bias", np.zeros(len(w))), np.float32)
        linear = Head(w, b)
    return Weights(kind, tuple(layers), linear, activation)


def _reorder(kind: Kind, rows: Array) -> Array:
    order = FROM_TORCH[kind]
    blocks = np.split(rows.astype(np.float32), len(order))
    return np.concatenate([blocks[at] for at in order])


def draw(
    kind: Kind,
    inputs: int,
    hidden: int,
    *,
    layers: int = 1,
    outputs: int | None = None,
    activation: Activation = "tanh",
    seed: int = 0,
) -> Weights:
    """Random weights for tests and trials; those of an RNN contract, so that rounding does not grow over time."""
    random = np.random.default_rng(seed)
    blocks = {"rnn": 1, "lstm": 4, "gru": 3}[kind]

    def part(*shape: int) -> Array:
        return random.uniform(-1, 1, shape).astype(np.float32)

    drawn = []
    for layer in range(layers):
        size = inputs if layer == 0 else hidden
        r = part(blocks * hidden, hidden) / np.float32(np.sqrt(hidden))
        if kind == "rnn":
            r *= np.float32(0.5) / np.linalg.norm(r, 2).astype(np.float32)
        w = part(blocks * hidden, size) / np.float32(np.sqrt(size))
        drawn.append(Layer(w, r, part(blocks * hidden), part(blocks * hidden)))
    head = None if outputs is None else Head(part(outputs, hidden), part(outputs))
    return Weights(kind, tuple(drawn), head, activation)


def build(
    weights: Weights,
    *,
    gates: bool = False,
    sequence: bool = False,
    scale: Scale | None = None,
    residual: bool = False,
) -> onnx.ModelProto:
    """The cell as a graph of one timestep; with `sequence` the same cell over [batch, time, inputs] at once.

    `gates` adds the gates of every layer as outputs [batch, layers, hidden], computed beside the operator
    (only for one timestep). `scale` normalises x, and brings y back to raw units if the cell is `residual`:
    then its head gives only what is to be added to x, for forecasters.
    """
    if gates and sequence:
        raise ValueError("gates are of one timestep")
    graph = _Graph()
    first = _normalised(graph, scale)
    x = graph.node("Transpose", first, perm=[1, 0, 2]) if sequence else graph.node("Unsqueeze", first, graph.ints([0]))
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
    return _model(graph, weights, states, list(opened) if gates else [], sequence)


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


def _normalised(graph: _Graph, scale: Scale | None) -> str:
    if scale is None:
        return "x"
    return graph.node("Div", graph.node("Sub", "x", graph.floats(scale.mean)), graph.floats(scale.deviation))


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
    graph: _Graph, weights: Weights, states: Sequence[str], gates: Sequence[str], sequence: bool
) -> onnx.ModelProto:
    last = weights.layers[-1].hidden
    outputs = last if weights.head is None else len(weights.head.w)
    step: list[str | int] = ["batch", "time"] if sequence else ["batch"]
    state: list[str | int] = [len(weights.layers), "batch", last]
    return graph.model(
        weights.kind,
        [_value("x", [*step, weights.layers[0].w.shape[1]]), *(_value(name, state) for name in states)],
        [
            _value("y", [*step, outputs]),
            *(_value(f"{name}_out", state) for name in states),
            *(_value(name, ["batch", len(weights.layers), last]) for name in gates),
        ],
    )
