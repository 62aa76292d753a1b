"""Cells built from weights: step by step they are the whole sequence, and PyTorch's own equations."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models.cells import GATES, Activation, Clock, Kind, Scale, Weights, build, checked, checker, draw, from_torch

F32 = np.float32
Arrays = dict[str, np.ndarray]


def session(weights: Weights, **options: object) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(build(weights, **options).SerializeToString())  # type: ignore[arg-type]


def zeros(weights: Weights, batch: int) -> Arrays:
    names = ["hidden", "cell"] if weights.kind == "lstm" else ["hidden"]
    return {name: np.zeros((len(weights.layers), batch, weights.layers[0].hidden), F32) for name in names}


def stepped(weights: Weights, xs: np.ndarray, **options: object) -> tuple[np.ndarray, Arrays]:
    """Outputs [batch, time, outputs] and the last states, one timestep a call."""
    cell, state, answers = session(weights, **options), zeros(weights, len(xs)), []
    for at in range(xs.shape[1]):
        y, *ends = cell.run(["y", *(f"{name}_out" for name in state)], {"x": xs[:, at], **state})
        state = dict(zip(state, ends, strict=True))
        answers.append(y)
    return np.stack(answers, axis=1), state


VARIANTS: list[tuple[Kind, Activation, float]] = [
    ("lstm", "tanh", 1e-6),
    ("gru", "tanh", 1e-6),
    ("rnn", "tanh", 5e-6),
    ("rnn", "sigmoid", 5e-6),
    ("rnn", "relu", 5e-6),
]


@pytest.mark.parametrize(("kind", "activation", "tolerance"), VARIANTS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("outputs", [None, 2])
def test_stepped_is_the_whole_sequence(
    kind: Kind, activation: Activation, tolerance: float, layers: int, outputs: int | None
) -> None:
    weights = draw(kind, 3, 16, layers=layers, outputs=outputs, activation=activation, seed=layers)
    xs = np.random.default_rng(1).normal(size=(4, 500, 3)).astype(F32)
    whole, *ends = session(weights, sequence=True).run(None, {"x": xs, **zeros(weights, 4)})
    answers, state = stepped(weights, xs)
    np.testing.assert_allclose(answers, whole, rtol=0, atol=tolerance)
    for got, expected in zip(state.values(), ends, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def sigmoid(value: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-value)))


def torch_step(kind: Kind, activation: Activation, weights: Arrays, layer: int, x: np.ndarray, h: np.ndarray,
               c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """One layer as PyTorch's documentation of nn.RNN, nn.LSTM and nn.GRU writes it, in double precision."""
    wx = x @ weights[f"weight_ih_l{layer}"].T.astype(float) + weights[f"bias_ih_l{layer}"]
    wh = h @ weights[f"weight_hh_l{layer}"].T.astype(float) + weights[f"bias_hh_l{layer}"]
    if kind == "rnn":
        total = wx + wh
        return {"tanh": np.tanh(total), "sigmoid": sigmoid(total), "relu": np.maximum(total, 0)}[activation], c
    if kind == "gru":
        (xr, xz, xn), (hr, hz, hn) = np.split(wx, 3, axis=1), np.split(wh, 3, axis=1)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        return (1 - z) * np.tanh(xn + r * hn) + z * h, c
    i, f, g, o = np.split(wx + wh, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def torch_weights(kind: Kind, layers: int, seed: int) -> Arrays:
    """A state dict as `nn.GRU(3, 8, layers)` and its head `nn.Linear(8, 2)` have it."""
    random, rows = np.random.default_rng(seed), {"rnn": 8, "lstm": 32, "gru": 24}[kind]
    arrays: Arrays = {"head.weight": random.normal(size=(2, 8)).astype(F32), "head.bias": np.ones(2, F32)}
    for layer in range(layers):
        for name, shape in (
            ("weight_ih", (rows, 8 if layer else 3)),
            ("weight_hh", (rows, 8)),
            ("bias_ih", (rows,)),
            ("bias_hh", (rows,)),
        ):
            arrays[f"{name}_l{layer}"] = random.uniform(-0.3, 0.3, shape).astype(F32)
    return arrays


@pytest.mark.parametrize(("kind", "activation", "tolerance"), VARIANTS)
def test_from_torch_gives_what_pytorchs_equations_give(kind: Kind, activation: Activation, tolerance: float) -> None:
    arrays = torch_weights(kind, 2, seed=4)
    xs = np.random.default_rng(2).normal(size=(3, 20, 3)).astype(F32)
    got, _ = stepped(from_torch(kind, arrays, head="head", activation=activation), xs)
    h, c = np.zeros((2, 3, 8)), np.zeros((2, 3, 8))
    for at in range(xs.shape[1]):
        x = xs[:, at].astype(float)
        for layer in range(2):
            h[layer], c[layer] = torch_step(kind, activation, arrays, layer, x, h[layer], c[layer])
            x = h[layer]
        expected = x @ arrays["head.weight"].T.astype(float) + arrays["head.bias"]
        np.testing.assert_allclose(got[:, at], expected, rtol=0, atol=tolerance)


def test_from_torch_takes_a_prefix_and_no_biases() -> None:
    arrays = {name: value for name, value in torch_weights("gru", 1, seed=5).items() if name.startswith("weight")}
    with_zeros = {**arrays, "bias_ih_l0": np.zeros(24, F32), "bias_hh_l0": np.zeros(24, F32)}
    xs = np.ones((1, 4, 3), F32)
    prefixed = from_torch("gru", {f"gru.{name}": value for name, value in arrays.items()}, prefix="gru.")
    np.testing.assert_array_equal(stepped(prefixed, xs)[0], stepped(from_torch("gru", with_zeros), xs)[0])


def test_from_torch_refuses_what_cannot_stream_and_what_is_not_there() -> None:
    arrays = torch_weights("gru", 1, seed=5)
    with pytest.raises(ValueError, match="backwards"):
        from_torch("gru", {**arrays, "weight_ih_l0_reverse": arrays["weight_ih_l0"]})
    with pytest.raises(ValueError, match=r"weights named rnn\.weight_ih_l0"):
        from_torch("gru", arrays, prefix="rnn.")


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_gates_are_those_that_made_the_state(kind: Kind) -> None:
    weights = draw(kind, 3, 8, layers=2, outputs=1)
    cell, state = session(weights, gates=True), zeros(weights, 4)
    names = [*(f"{name}_out" for name in state), *GATES[kind]]
    for x in np.random.default_rng(3).normal(size=(10, 4, 3)).astype(F32):
        answers = dict(zip(names, cell.run(names, {"x": x, **state}), strict=True))
        gates = {name: answers[name].transpose(1, 0, 2) for name in GATES[kind]}
        for name, gate in gates.items():
            assert gate.min() >= (-1 if name == "candidate" else 0)
            assert gate.max() <= 1
        if kind == "lstm":
            c = gates["forget_gate"] * state["cell"] + gates["input_gate"] * gates["candidate"]
            np.testing.assert_allclose(answers["cell_out"], c, atol=1e-6)
            np.testing.assert_allclose(answers["hidden_out"], gates["output_gate"] * np.tanh(c), atol=1e-6)
        else:
            z = gates["update_gate"]
            np.testing.assert_allclose(
                answers["hidden_out"], (1 - z) * gates["candidate"] + z * state["hidden"], atol=1e-6
            )
        state = {name: answers[f"{name}_out"] for name in state}


def test_gates_change_no_answer() -> None:
    weights = draw("lstm", 3, 8, outputs=2)
    xs = np.random.default_rng(3).normal(size=(2, 30, 3)).astype(F32)
    np.testing.assert_array_equal(stepped(weights, xs)[0], stepped(weights, xs, gates=True)[0])


def test_units_and_the_clock_are_inside_the_graph() -> None:
    clock, scale = Clock(period=24, harmonics=2), Scale(mean=100, deviation=5)
    weights = draw("gru", 1 + 4, 8, outputs=1)
    raw = np.stack([np.linspace(90, 110, 48), np.arange(48) % 24], axis=-1).astype(F32)[None]
    seen = np.concatenate([(raw[..., :1] - 100) / 5, clock.columns(raw[..., 1])], axis=-1).astype(F32)
    plain, _ = stepped(weights, seen)
    got, _ = stepped(weights, raw, scale=scale, clock=clock, residual=True)
    np.testing.assert_allclose(got, (seen[..., :1] + plain) * 5 + 100, rtol=1e-6)


def test_the_checker_counts_and_does_not_commute(tmp_path: Path) -> None:
    cell, state, answers = onnxruntime.InferenceSession(checker().SerializeToString()), np.zeros((1, 1), np.int64), []
    inputs = [1, 2, 2**31 - 2, 0]
    for x in inputs:
        y, state = cell.run(["y", "state_out"], {"x": [[x]], "state": state})
        answers.append(int(y[0, 0]))
    assert answers == checked(inputs)
    assert (checked([1, 2]), checked([2, 1])) == ([1, 1_000_005], [2, 2_000_007])
