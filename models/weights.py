"""The weights of a cell in numbers, in ONNX's layout, from PyTorch's layout or drawn at random.

Knows layouts only; needs neither PyTorch nor ONNX.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["rnn", "lstm", "gru"]
Activation = Literal["tanh", "sigmoid", "relu"]
Array = np.ndarray

# rows of ONNX's blocks in PyTorch's order: LSTM i f g o -> i o f c, GRU r z n -> z r h
FROM_TORCH = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}


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
