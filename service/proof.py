"""The proof at load: what a model must show before it serves.

Knows cells and the repository; runs the real graph on random inputs within the manifest's ranges. A failed check
refuses the model; a batch that does not equal its members alone makes it run one session a call, said aloud.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx
import structlog

from service.cell import Cell
from service.errors import CellwireError
from service.operators import remarks
from service.repository import Repository
from service.values import CellResult, CellWork, InputSpec, Row
from service.wiring import ModelRefused

__all__ = ["Check", "ModelRefused", "Proof", "doctor", "load", "prove"]

TOLERANCE = 5e-6
"""Of one step batched against alone, and of steps against a whole run, times max(1, |value|)."""
WHOLE_TIMESTEPS = 8
MOVING_STEPS = 8
SEED = 20261123

logger = structlog.get_logger(__name__)
Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried: `figure` is what was measured, where there is a number."""

    name: str
    status: Status
    detail: str
    figure: float | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """All checks of one model version, and the batch that they allow."""

    model: str
    checks: tuple[Check, ...]
    max_batch: int

    @property
    def failed(self) -> Check | None:
        """The first failed check, None if the model may serve."""
        return next((check for check in self.checks if check.status == "failed"), None)


def load(repository: Repository, name: str, version: str = "") -> Cell:
    """Open, prove and warm a version, the newest if none is named. Raises ModelUnknown, ModelRefused."""
    spec, session = repository.open(name, version)
    cell = Cell(spec, session)
    proof = prove(cell, repository.graph(name, spec.version))
    for check in proof.checks:
        if check.status == "warning":
            logger.warning("model.proof", model=proof.model, check=check.name, detail=check.detail)
    if (failed := proof.failed) is not None:
        raise ModelRefused(f"{proof.model}: {failed.name}: {failed.detail}")
    if proof.max_batch != spec.max_batch:
        cell = Cell(replace(spec, max_batch=proof.max_batch), session)
    cell.warm()
    return cell


def doctor(repository: Repository, name: str, version: str = "") -> Proof:
    """Prove a version without serving it; a model that does not even open has one failed check."""
    try:
        spec, session = repository.open(name, version)
        return prove(Cell(spec, session), repository.graph(name, spec.version))
    except ModelRefused as refusal:
        label = f"{name}/{version}" if version else name
        return Proof(label, (Check("opens", "failed", str(refusal)),), 0)


def prove(cell: Cell, graph: onnx.ModelProto | None = None) -> Proof:
    """Try the cell on random inputs; with its `graph` look at the recurrent operators as well."""
    spec = cell.spec
    checks = [_pairs(cell)]
    if graph is not None:
        checks += _operators(cell, graph)
    checks.append(_answers(cell))
    max_batch = spec.max_batch
    if all(check.status != "failed" for check in checks):
        batched = _batched(cell)
        max_batch = 1 if batched.status == "warning" else max_batch
        checks += [_stepped(cell), batched, _resumed(cell), _moves(cell)]
    return Proof(f"{spec.name}/{spec.version}", tuple(checks), max_batch)


def _pairs(cell: Cell) -> Check:
    """Dtype and shape of each pair were compared when the manifest met the graph; here, that none is shared."""
    outputs = [state.output for state in cell.spec.state if state.output is not None]
    listed = ", ".join(f"{s.name} -> {s.output or s.carried_input}" for s in cell.spec.state)
    if len(set(outputs)) != len(outputs):
        return Check("state pairs", "failed", f"each output feeds exactly one state expected: {listed}")
    if not cell.spec.state:
        return Check("state pairs", "warning", "no state: every timestep is answered by itself", 0)
    return Check("state pairs", "ok", listed, len(cell.spec.state))


def _operators(cell: Cell, graph: onnx.ModelProto) -> Iterator[Check]:
    found = remarks(graph, {state.name for state in cell.spec.state})
    for remark in found:
        status: Status = "failed" if remark.refused else "warning"
        yield Check("recurrent operators", status, f"{remark.operator}: {remark.detail}")
    if not found:
        yield Check("recurrent operators", "ok", "nothing that hinders streaming")


def _answers(cell: Cell) -> Check:
    """One step from the initial state: the graph runs and answers in the shapes that were declared."""
    work = _Inputs(cell).first(1)
    try:
        arrays = cell.answer(work)
    except Exception as error:  # ONNX Runtime's exceptions have no common class
        return Check("answers", "failed", f"ONNX Runtime: {' '.join(str(error).split())[:300]}")
    if isinstance(result := cell.run(work)[0], CellwireError):
        shapes = {name: f"{array.dtype.name}{list(array.shape)}" for name, array in arrays.items()}
        return Check("answers", "failed", f"{result.message}; the graph answers {shapes}")
    return Check("answers", "ok", "one step from the initial state")


def _stepped(cell: Cell) -> Check:
    """T single steps equal one call of T timesteps."""
    name = "stepped = whole"
    if cell.spec.time_axis is None:
        return Check(name, "ok", "no time axis: the graph takes one timestep a call")
    inputs = _Inputs(cell)
    rows = tuple(inputs.row() for _ in range(WHOLE_TIMESTEPS))
    constants = inputs.constants()
    whole = cell.run([CellWork(cell.spec.initial_state, rows, constants)])[0]
    state, answers = cell.spec.initial_state, list[Row]()
    for row in rows:
        step = cell.run([CellWork(state, (row,), constants)])[0]
        if isinstance(step, CellwireError):
            return Check(name, "failed", step.message)
        state = step.state
        answers += step.rows
    if isinstance(whole, CellwireError):
        return Check(name, "failed", f"{WHOLE_TIMESTEPS} timesteps in one call: {whole.message}")
    figure = _difference(cell, CellResult(state, tuple(answers)), whole)
    status: Status = "ok" if figure <= TOLERANCE else "failed"
    return Check(name, status, f"{WHOLE_TIMESTEPS} timesteps, largest difference {figure:.1e}", figure)


def _batched(cell: Cell) -> Check:
    """One step of each of B sessions together equals each alone, from states of their own."""
    name, largest = "batched = alone", cell.spec.max_batch
    if largest == 1:
        return Check(name, "ok", "runs one session a call", 0)
    work = _Inputs(cell).travelled(largest, steps=2)
    alone = [cell.run([each])[0] for each in work]
    figure, sizes = 0.0, sorted({min(size, largest) for size in (2, 3, largest)})
    for size in sizes:
        for one, together in zip(alone, cell.run(work[:size]), strict=False):
            if isinstance(one, CellwireError) or isinstance(together, CellwireError):
                figure = math.inf
            else:
                figure = max(figure, _difference(cell, one, together))
    detail = f"one step at batch {', '.join(map(str, sizes))}: largest difference {figure:.1e}"
    if figure <= TOLERANCE:
        return Check(name, "ok", detail, figure)
    return Check(name, "warning", f"{detail}; the model runs one session a call", figure)


def _resumed(cell: Cell) -> Check:
    """A state kept as bytes and taken up again goes on bit for bit: nothing of the cell is outside its state."""
    name = "resumed = unbroken"
    inputs = _Inputs(cell)
    work = inputs.travelled(1, steps=2)[0]
    unbroken = cell.run([work])[0]
    cell.run(inputs.travelled(1, steps=3))  # another session in between
    resumed = cell.run([replace(work, state=bytes(bytearray(work.state)))])[0]
    if isinstance(unbroken, CellwireError) or isinstance(resumed, CellwireError) or unbroken != resumed:
        return Check(name, "failed", "the same state and input give other bits the second time")
    return Check(name, "ok", f"{len(work.state)} bytes of state, bit for bit", len(work.state))


def _moves(cell: Cell) -> Check:
    """Every tensor of the state changes under random inputs."""
    name, still = "state moves", {state.name for state in cell.spec.state}
    inputs = _Inputs(cell)
    constants, state = inputs.constants(), cell.spec.initial_state
    for _ in range(MOVING_STEPS):
        result = cell.run([CellWork(state, (inputs.row(),), constants)])[0]
        if isinstance(result, CellwireError):
            return Check(name, "failed", result.message)
        start = 0
        for spec in cell.spec.state:
            part = slice(start, start := start + spec.nbytes)
            if result.state[part] != state[part]:
                still.discard(spec.name)
        state = result.state
    if still:
        return Check(name, "failed", f"{sorted(still)} never change: is each paired with its next value?")
    return Check(name, "ok", f"all of {len(cell.spec.state)} tensors within {MOVING_STEPS} steps")


class _Inputs:
    """Random inputs of one cell within the manifest's ranges; the same ones each time."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._random = np.random.default_rng(SEED)

    def row(self) -> Row:
        return tuple(self._draw(spec) for spec in self._cell.spec.inputs)

    def constants(self) -> Row:
        return tuple(self._draw(spec) for spec in self._cell.spec.constants)

    def _draw(self, spec: InputSpec) -> bytes:
        if spec.dtype.kind == "f":
            return self._random.standard_normal(spec.shape).astype(spec.dtype).tobytes()
        # without a range 0 and 1 are what any index into anything may be
        low = spec.low if spec.low is not None else min(0, spec.high or 0)
        high = spec.high if spec.high is not None else max(1, low)
        values = self._random.integers(low, high, spec.shape, np.uint64 if low >= 0 else np.int64, endpoint=True)
        return np.asarray(values).astype(spec.dtype).tobytes()

    def first(self, sessions: int) -> list[CellWork]:
        initial = self._cell.spec.initial_state
        return [CellWork(initial, (self.row(),), self.constants()) for _ in range(sessions)]

    def travelled(self, sessions: int, steps: int) -> list[CellWork]:
        """The next timestep of sessions that have made some steps, each alone, and stand in states of their own."""
        work = self.first(sessions)
        for _ in range(steps):
            for at, each in enumerate(work):
                result = self._cell.run([each])[0]
                state = each.state if isinstance(result, CellwireError) else result.state
                work[at] = CellWork(state, (self.row(),), each.constants)
        return work


def _difference(cell: Cell, one: CellResult, other: CellResult) -> float:
    """The largest |a - b| / max(1, |b|) over outputs and state; infinite where integers differ."""
    spec = cell.spec
    figure = _apart([s.dtype for s in spec.state], [s.nbytes for s in spec.state], one.state, other.state)
    outputs = (*spec.outputs, *spec.gates)
    for a, b in zip(one.rows, other.rows, strict=True):
        figure = max(
            figure,
            _apart([s.dtype for s in outputs], [s.nbytes for s in outputs], b"".join(a), b"".join(b)),
        )
    return figure


def _apart(dtypes: Sequence[np.dtype], sizes: Sequence[int], one: bytes, other: bytes) -> float:
    figure, start = 0.0, 0
    for dtype, size in zip(dtypes, sizes, strict=True):
        a, b = (np.frombuffer(raw[start : start + size], dtype) for raw in (one, other))
        start += size
        if dtype.kind != "f":
            figure = figure if np.array_equal(a, b) else math.inf
        elif size:
            wide = b.astype(np.float64)
            figure = max(figure, float((np.abs(a - wide) / np.maximum(1, np.abs(wide))).max()))
    return figure
