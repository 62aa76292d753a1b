"""The inputs of each session, and what one undisturbed process answers to them. Knows the test models, no service."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from models.cells import FACTOR, MODULUS

Array = np.ndarray
CHECKER, LSTM = "checker", "lstm"
WIDTH = {CHECKER: 1, LSTM: 4}
"""Values a timestep."""
DTYPE: dict[str, np.dtype[Any]] = {CHECKER: np.dtype(np.int64), LSTM: np.dtype(np.float32)}
_GOLDEN, _A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def inputs(model: str, seed: int, branch: int, first: int, count: int) -> Array:
    """The inputs [count, width] of these steps, each drawn by its own number however messages are cut.

    SplitMix64 (Steele, Lea and Flood 2014) over (seed, branch, step, place).
    """
    width = WIDTH[model]
    places = np.arange(first * width, (first + count) * width, dtype=np.uint64)
    with np.errstate(over="ignore"):
        drawn: Array = _mix(places + _mix(np.uint64(seed) * _GOLDEN + np.uint64(branch)))
    values: Array = drawn % np.uint64(MODULUS) if model == CHECKER else drawn / np.float64(2**63) - 1
    cast: Array = values.astype(DTYPE[model])
    return cast.reshape(count, width)


def _mix(values: Any) -> Any:
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _A
    values = (values ^ (values >> np.uint64(27))) * _B
    return values ^ (values >> np.uint64(31))


State = Any
Cell = Callable[[State, Array], tuple[State, list[float]]]


def _checker(state: State, x: Array) -> tuple[State, list[float]]:
    state = ((state or 0) * FACTOR + int(x[0])) % MODULUS
    return state, [state]


@cache
def _lstm(path: Path) -> Cell:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    shapes = {given.name: given.shape for given in session.get_inputs() if given.name != "x"}
    zero = {name: np.zeros([d if isinstance(d, int) else 1 for d in dims], np.float32) for name, dims in shapes.items()}
    names = ["y", *(f"{name}_out" for name in zero)]

    def run(state: State, x: Array) -> tuple[State, list[float]]:
        y, *after = session.run(names, {"x": x[np.newaxis], **(state or zero)})
        return dict(zip(zero, after, strict=True)), y[0].tolist()

    return run


class Reference:
    """One life of a session as it would be with nobody to disturb it, along each of its branches."""

    def __init__(self, models: Path, model: str, seed: int) -> None:
        self._model, self._seed = model, seed
        self._cell: Cell = _checker if model == CHECKER else _lstm(models / model / "1" / "model.onnx")
        self._fork: dict[int, tuple[int, int]] = {0: (0, 0)}
        self._states: dict[int, list[State]] = {0: [None]}
        """Of each branch, from the step at which it begins."""
        self._outputs: dict[int, list[list[float]]] = {0: []}

    def fork(self, branch: int, parent: int, at: int) -> None:
        """From step `at` of its parent on, a branch has inputs of its own."""
        self._fork[branch] = (parent, at)
        self._states[branch] = [self.state(parent, at)]
        self._outputs[branch] = []

    def state(self, branch: int, step: int) -> State:
        """After this step."""
        parent, at = self._fork[branch]
        if step < at:
            return self.state(parent, step)
        self._reach(branch, step)
        return self._states[branch][step - at]

    def outputs(self, branch: int, first: int, count: int) -> list[float]:
        """Of these steps, one after the other. A message never stands on both sides of a fork."""
        parent, at = self._fork[branch]
        if first <= at:
            return self.outputs(parent, first, count)
        self._reach(branch, first + count - 1)
        return [y for row in self._outputs[branch][first - at - 1 : first - at - 1 + count] for y in row]

    def after(self, state: State, branch: int, first: int, count: int) -> list[float]:
        """The outputs of these inputs from another state: what a fault would have given."""
        found: list[float] = []
        for x in inputs(self._model, self._seed, branch, first, count):
            state, y = self._cell(state, x)
            found.extend(y)
        return found

    def _reach(self, branch: int, step: int) -> None:
        _, at = self._fork[branch]
        states, outputs = self._states[branch], self._outputs[branch]
        done = at + len(outputs)
        if step <= done:
            return
        for x in inputs(self._model, self._seed, branch, done + 1, max(step - done, 64)):
            state, y = self._cell(states[-1], x)
            states.append(state)
            outputs.append(y)
