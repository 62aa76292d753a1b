"""The cell: rows in, rows out, on any axis; nobody's numbers touch anybody else's.

Each test runs where tensors lie in memory of the host, and where they lie in a device's: a part of the CPU's memory
stands for the device, reached by the same transfers.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.cells import build, checked, checker, draw
from service.errors import ModelFailed, NonFinite
from service.model.cell import Cell
from service.model.device import Device, Host
from service.values import CellResult, CellWork
from tests import zoo
from tests.zoo import good, graph, row, stream

F32 = np.float32
CellOf = Callable[..., Cell]


@pytest.fixture(params=[Host, partial(Device, "cpu", 0)], ids=["host", "device"])
def cell_of(request: pytest.FixtureRequest) -> CellOf:
    return partial(zoo.cell_of, host=request.param())


def f32(*values: float) -> np.ndarray:
    return np.array(values, F32)


def floats(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, F32)


def test_a_counting_cell_proves_that_sessions_never_mix(cell_of: CellOf, tmp_path: Path) -> None:
    cell = cell_of(tmp_path, checker(), "inputs: [{name: x, low: 0, high: 2147483646}]\nmax_batch: 8")
    random = np.random.default_rng(1)
    fed = random.integers(0, 2**31 - 1, (20, 13))
    states = [cell.spec.initial_state] * 13
    answers: list[list[int]] = [[] for _ in states]
    for inputs in fed:
        order = random.permutation(13)
        results = cell.run([CellWork(states[at], (row(inputs[at : at + 1]),)) for at in order])
        for at, result in zip(order, results, strict=True):
            states[at] = good(result).state
            answers[at].append(int.from_bytes(good(result).rows[0][0], "little"))
    assert answers == [checked(fed[:, at].tolist()) for at in range(13)]


MIXED = graph(
    "(float[3,batch] x, uint8[batch] k, float[2,batch,3] a, double[batch,2] b, bool[batch] flip)"
    " => (float[3,batch] y, uint8[batch] kn, float[2,batch,3] an, double[batch,2] bn, bool[batch] flipn,"
    " int64[batch] z)",
    """kn = Add(k, one) flipn = Not(flip) xt = Transpose<perm = [1, 0]>(x) an = Add(a, xt) bn = Mul(b, two)
       y = Add(x, x) z = Cast<to = 7>(kn)""",
)
MIXED.graph.initializer.append(numpy_helper.from_array(np.array([1], np.uint8), "one"))
MIXED.graph.initializer.append(numpy_helper.from_array(np.array([2], np.float64), "two"))


def test_state_of_any_dtype_and_batch_axis_keeps_its_place(cell_of: CellOf, tmp_path: Path) -> None:
    """One byte in front leaves every other tensor of the state off its alignment."""
    manifest = "inputs: [{name: x}]\nstate: [{input: k}, {input: flip}, {input: a, initial: 1}, {input: b, initial: 3}]"
    cell = cell_of(tmp_path, MIXED, manifest)
    assert [(each.name, each.batch_axis) for each in cell.spec.state] == [("k", 0), ("a", 1), ("b", 0), ("flip", 0)]
    xs = np.arange(15, dtype=F32).reshape(5, 3)
    for count in (1, 5):
        results = cell.run([CellWork(cell.spec.initial_state, (row(x),)) for x in xs[:count]])
        for x, result in zip(xs, results, strict=False):
            state = good(result).state
            assert (state[0], state[-1]) == (1, 1)
            np.testing.assert_array_equal(floats(state[1:25]).reshape(2, 3), 1 + np.stack([x, x]))
            np.testing.assert_array_equal(np.frombuffer(state[25:-1], np.float64), [6, 6])
            y, z = good(result).rows[0]
            np.testing.assert_array_equal(floats(y), 2 * x)
            assert z == (1).to_bytes(8, "little")


def test_a_number_that_is_not_finite_is_seen_among_tensors_of_any_dtype(cell_of: CellOf, tmp_path: Path) -> None:
    cell = cell_of(tmp_path, MIXED, "inputs: [{name: x}]\nstate: [{input: k}, {input: flip}, {input: a}, {input: b}]")
    largest = np.array([1, np.finfo(np.float64).max]).tobytes()
    state = cell.spec.initial_state
    overflowing = state[:25] + largest + state[41:]
    results = cell.run([CellWork(each, (row(np.ones(3, F32)),)) for each in (state, overflowing, state)])
    assert [type(result) for result in results] == [CellResult, NonFinite, CellResult]


def test_calls_of_many_sizes_share_their_memory_and_no_number(cell_of: CellOf, tmp_path: Path) -> None:
    model = build(draw("lstm", 3, 5, layers=2, outputs=2))
    cell, random = cell_of(tmp_path, model), np.random.default_rng(9)
    kept: list[tuple[list[CellWork], list[object]]] = []
    for count in (64, 1, 7, 8, 7, 64, 3, 1):
        states = random.normal(size=(count, cell.spec.state_bytes // 4)).astype(F32)
        work = [CellWork(state.tobytes(), (row(random.normal(size=3).astype(F32)),)) for state in states]
        kept.append((work, list(cell.run(work))))
    for work, results in kept:
        assert results == cell_of(tmp_path, model).run(work)


LAST_AXIS = graph(
    "(float[batch,2,3] x, float[2,3,batch] s) => (float[2,3,batch] y, float[2,3,batch] s_out)",
    "t = Transpose<perm = [1, 2, 0]>(x) s_out = Add(s, t) y = Identity(s_out)",
)


def test_a_batch_on_the_last_axis_comes_back_in_order(cell_of: CellOf, tmp_path: Path) -> None:
    cell = cell_of(tmp_path, LAST_AXIS)
    xs = np.arange(24, dtype=F32).reshape(4, 2, 3)
    for x, result in zip(xs, cell.run([CellWork(cell.spec.initial_state, (row(x),)) for x in xs]), strict=True):
        assert good(result) == CellResult(x.tobytes(), (row(x),))


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("count", [2, 3, 64, 100])
def test_batched_is_alone(cell_of: CellOf, tmp_path: Path, kind: str, count: int) -> None:
    cell = cell_of(tmp_path, build(draw(kind, 4, 16, layers=2, outputs=3)))  # type: ignore[arg-type]
    random = np.random.default_rng(count)
    work = [
        CellWork(random.normal(size=cell.spec.state_bytes // 4).astype(F32).tobytes(),
                 (row(random.normal(size=4).astype(F32)),))
        for _ in range(count)
    ]  # fmt: skip
    for each, result in zip(work, cell.run(work), strict=True):
        alone = good(cell.run([each])[0])
        np.testing.assert_allclose(floats(good(result).state), floats(alone.state), atol=5e-6)
        np.testing.assert_allclose(floats(good(result).rows[0][0]), floats(alone.rows[0][0]), atol=5e-6)


RECIPROCAL = graph("(float[batch,1] x, float[batch,1] s) => (float[batch,1] y, float[batch,1] s_out)",
                   "s_out = Add(s, x) y = Reciprocal(x)")  # fmt: skip
POISON_STATE = graph("(float[batch,1] x, float[batch,1] s) => (float[batch,1] y, float[batch,1] s_out)",
                     "q = Log(x) s_out = Add(s, q) y = Identity(x)")  # fmt: skip
INFINITE_GATE = graph("(float[batch,1] x) => (float[batch,1] y, float[batch,1] gate)",
                      "gate = Reciprocal(x) y = Identity(x)")  # fmt: skip


@pytest.mark.parametrize(
    ("model", "manifest"), [(RECIPROCAL, ""), (POISON_STATE, ""), (INFINITE_GATE, "gates: [{name: gate}]")]
)
def test_a_row_that_is_not_finite_is_refused_alone(
    cell_of: CellOf, tmp_path: Path, model: onnx.ModelProto, manifest: str
) -> None:
    cell = cell_of(tmp_path, model, manifest)
    work = [CellWork(cell.spec.initial_state, (row(f32(x)),)) for x in (1, 0, 2)]
    results = cell.run(work)
    assert isinstance(results[1], NonFinite)
    assert [results[0], results[2]] == [cell.run([work[0]])[0], cell.run([work[2]])[0]]
    assert all(isinstance(result, CellResult) for result in (results[0], results[2]))


GATHER = graph("(int64[batch] i) => (float[batch] y)", "y = Gather(table, i)")
GATHER.graph.initializer.append(numpy_helper.from_array(np.arange(4, dtype=F32), "table"))


def test_a_row_that_the_graph_fails_on_is_refused_alone(cell_of: CellOf, tmp_path: Path) -> None:
    cell = cell_of(tmp_path, GATHER)
    results = cell.run([CellWork(b"", ((at.to_bytes(8, "little"),),)) for at in (3, 99, 1)])
    assert isinstance(results[1], ModelFailed)
    assert results[1].message == "the model failed on this timestep"
    assert [floats(good(results[at]).rows[0][0]).tolist() for at in (0, 2)] == [[3], [1]]


def test_a_graph_that_answers_in_another_shape_has_failed(cell_of: CellOf, tmp_path: Path) -> None:
    """Its rows could not be told apart: here B sessions give 2 B numbers, which would be cut at will."""
    grown = graph("(float[batch,2] x) => (float[n,m] y)", "y = Concat<axis = 0>(x, x)")
    cell = cell_of(tmp_path, grown, "outputs: [{name: y, shape: [2], batch_axis: 0}]")
    results = cell.run([CellWork(b"", (row(np.zeros(2, F32)),))] * 2)
    assert [type(result) for result in results] == [ModelFailed, ModelFailed]


def test_constants_and_fixed_inputs_reach_the_graph(cell_of: CellOf, tmp_path: Path) -> None:
    model = graph("(float[batch,2] x, float[batch,2] offset, float factor) => (float[batch,2] y)",
                  "p = Mul(x, factor) y = Add(p, offset)")  # fmt: skip
    cell = cell_of(tmp_path, model, "inputs: [{name: x}]\nconstants: [{name: offset}]\nfixed: {factor: 10}")
    work = [CellWork(b"", (row(f32(at, 1)),), row(f32(5, at))) for at in range(3)]
    answers = [floats(good(result).rows[0][0]).tolist() for result in cell.run(work)]
    assert answers == [[10 * at + 5, 10 + at] for at in range(3)]


def test_gates_come_after_the_outputs(cell_of: CellOf, tmp_path: Path) -> None:
    model = build(draw("gru", 2, 4, outputs=1), gates=True)
    names = ["update_gate", "reset_gate", "candidate"]
    cell = cell_of(tmp_path, model, f"gates: [{', '.join(f'{{name: {name}}}' for name in names)}]")
    assert [each.name for each in (*cell.spec.outputs, *cell.spec.gates)] == ["y", *names]
    answer = good(cell.run([CellWork(cell.spec.initial_state, (row(np.ones(2, F32)),))])[0]).rows[0]
    assert [len(raw) for raw in answer] == [4, 16, 16, 16]
    assert all(0 <= value <= 1 for value in [*floats(answer[1]), *floats(answer[2])])


SUM_WINDOW = graph("(float[batch,5] x) => (float[batch] y)", "y = ReduceSum<keepdims = 0>(x, axes)")
SUM_WINDOW.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))


def test_a_carry_window_longer_than_the_input_reaches_back_over_several(cell_of: CellOf, tmp_path: Path) -> None:
    cell = cell_of(tmp_path, SUM_WINDOW, "inputs: [{name: x, carry: {length: 3, initial: 100}}]")
    answers, state = stream(cell, [row(f32(at, at)) for at in (1, 2, 3)])
    assert [float(floats(y)[0]) for (y,) in answers] == [302, 100 + 1 + 1 + 2 + 2, 1 + 2 + 2 + 3 + 3]
    assert floats(state).tolist() == [2, 3, 3]


def test_a_carry_window_that_is_not_finite_is_refused(cell_of: CellOf, tmp_path: Path) -> None:
    """Also where the graph does not let it be seen: it would come before the next timestep."""
    model = graph("(float[batch,5] x) => (float[batch] y)", "one = Slice(x, zero, first, axis) y = Squeeze(one, axis)")
    for name, value in (("zero", 0), ("first", 1), ("axis", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    cell = cell_of(tmp_path, model, "inputs: [{name: x, carry: {length: 3}}]")
    work = [CellWork(cell.spec.initial_state, (row(f32(1, last)),)) for last in (1, math.inf)]
    results = cell.run(work)
    assert [type(result) for result in results] == [CellResult, NonFinite]


def sequence(cell_of: CellOf, tmp_path: Path, manifest: str = "") -> tuple[Cell, Cell]:
    """The same LSTM, one timestep a call and with a time axis."""
    weights = draw("lstm", 3, 8, outputs=2)
    return (
        cell_of(tmp_path / "step", build(weights)),
        cell_of(tmp_path / "whole", build(weights, sequence=True), f"time_axis: 1\n{manifest}"),
    )


def test_several_timesteps_in_a_call_are_the_same_as_one_by_one(cell_of: CellOf, tmp_path: Path) -> None:
    step, whole = sequence(cell_of, tmp_path)
    random = np.random.default_rng(3)
    lengths = (1, 4, 1, 4, 2)
    rows = [tuple(row(random.normal(size=3).astype(F32)) for _ in range(length)) for length in lengths]
    results = whole.run([CellWork(whole.spec.initial_state, each) for each in rows])
    for each, result in zip(rows, results, strict=True):
        answers, state = stream(step, list(each))
        assert len(good(result).rows) == len(each)
        np.testing.assert_allclose(floats(good(result).state), floats(state), atol=1e-6)
        for (got,), (expected,) in zip(good(result).rows, answers, strict=True):
            np.testing.assert_allclose(floats(got), floats(expected), atol=1e-6)


def test_a_carry_window_goes_before_each_of_several_timesteps(cell_of: CellOf, tmp_path: Path) -> None:
    model = graph("(float[batch,T,2,5] x) => (float[batch,T,2] y)", "y = ReduceSum<keepdims = 0>(x, axes)")
    model.graph.initializer.append(numpy_helper.from_array(np.array([3]), "axes"))
    cell = cell_of(tmp_path, model, "time_axis: 1\ninputs: [{name: x, carry: {length: 3}}]")
    frames = np.random.default_rng(5).normal(size=(2, 6, 2, 2)).astype(F32)
    work = [CellWork(cell.spec.initial_state, tuple(row(frame) for frame in session)) for session in frames]
    for session, result in zip(frames, cell.run(work), strict=True):
        answers, state = stream(cell, [row(frame) for frame in session])
        assert good(result).state == state
        np.testing.assert_allclose(
            [floats(y) for (y,) in good(result).rows], [floats(y) for (y,) in answers], atol=1e-6
        )


def test_the_time_it_takes_is_known_after_warming(cell_of: CellOf, tmp_path: Path) -> None:
    cell = cell_of(tmp_path, checker(), "max_batch: 6")
    assert cell.seconds(1) == math.inf
    cell.warm()
    assert all(0 < cell.seconds(batch) < math.inf for batch in range(1, 9))
