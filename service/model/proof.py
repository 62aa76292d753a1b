"""The proof at load: what a model must show before it serves.

Knows cells and the repository; runs the real graph on random inputs within the manifest's ranges. A failed check
refuses the model; a batch that does not equal its members alone makes it run one session a call, said aloud.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import onnx
import structlog

from service.errors import CellwireError
from service.model.cell import Cell
from service.model.operators import remarks
from service.model.repository import Repository
from service.model.trial import Inputs, difference
from service.model.wiring import ModelRefused
from service.values import CellResult, CellWork, ModelSpec, Row

__all__ = ["Check", "ModelRefused", "Proof", "doctor", "load", "prove"]

TOLERANCE = 5e-6
"""Of one step batched against alone, and of steps against a whole run, times max(1, |value|)."""
WHOLE_TIMESTEPS = 8
MOVING_STEPS = 8

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
    proof, cell = _examine(repository, name, version)
    for check in proof.checks:
        if check.status == "warning":
            logger.warning("model.proof", model=proof.model, check=check.name, detail=check.detail)
    if (failed := proof.failed) is not None:
        raise ModelRefused(f"{proof.model}: {failed.name}: {failed.detail}")
    if proof.max_batch != cell.spec.max_batch:
        cell = cell.limited(proof.max_batch)
    cell.warm()
    return cell


def doctor(repository: Repository, name: str, version: str = "") -> Proof:
    """Prove a version without serving it; a model that does not open has one failed check. Raises ModelUnknown."""
    try:
        return _examine(repository, name, version)[0]
    except ModelRefused as refusal:
        label = f"{name}/{version}" if version else name
        return Proof(label, (Check("opens", "failed", str(refusal)),), 0)


def _examine(repository: Repository, name: str, version: str) -> tuple[Proof, Cell]:
    """The proof and the cell, which is not to be used where the proof failed."""
    spec = repository.spec(name, version)
    operators = tuple(_operators(spec, repository.graph(name, spec.version)))
    refused = [f"{check.name}: {check.detail}" for check in operators if check.status == "failed"]
    try:
        cell = Cell(*repository.open(name, spec.version))
    except ModelRefused as refusal:
        # what we know of its operators says more than ONNX Runtime's complaint about them
        raise ModelRefused(f"{spec.name}/{spec.version}: {refused[0]}") if refused else refusal from None
    proof = prove(cell)
    return replace(proof, checks=(*operators, *proof.checks)), cell


def prove(cell: Cell) -> Proof:
    """Try the cell on random inputs within its ranges."""
    checks, max_batch = [_pairs(cell), _answers(cell)], cell.spec.max_batch
    if all(check.status != "failed" for check in checks):
        batched = _batched(cell)
        max_batch = 1 if batched.status == "warning" else max_batch
        checks += [_stepped(cell), batched, _resumed(cell), _moves(cell)]
    return Proof(f"{cell.spec.name}/{cell.spec.version}", tuple(checks), max_batch)


def _pairs(cell: Cell) -> Check:
    """Dtype and shape of each pair were compared when the manifest met the graph; here, that none is shared."""
    outputs = [state.output for state in cell.spec.state if state.output is not None]
    listed = ", ".join(f"{s.name} -> {s.output or s.carried_input}" for s in cell.spec.state)
    if len(set(outputs)) != len(outputs):
        return Check("state pairs", "failed", f"each output feeds exactly one state expected: {listed}")
    if not cell.spec.state:
        return Check("state pairs", "warning", "no state: every timestep is answered by itself", 0)
    return Check("state pairs", "ok", listed, len(cell.spec.state))


def _operators(spec: ModelSpec, graph: onnx.ModelProto) -> Iterator[Check]:
    found = remarks(graph, {state.name for state in spec.state})
    for remark in found:
        status: Status = "failed" if remark.refused else "warning"
        yield Check("recurrent operators", status, f"{remark.operator}: {remark.detail}")
    if not found:
        yield Check("recurrent operators", "ok", "nothing that hinders streaming")


def _answers(cell: Cell) -> Check:
    """One step from the initial state: the graph runs and answers in the shapes that were declared."""
    work = Inputs(cell).first(1)
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
    inputs = Inputs(cell)
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
    figure = difference(cell, CellResult(state, tuple(answers)), whole)
    status: Status = "ok" if figure <= TOLERANCE else "failed"
    return Check(name, status, f"{WHOLE_TIMESTEPS} timesteps, largest difference {figure:.1e}", figure)


def _batched(cell: Cell) -> Check:
    """One step of each of B sessions together equals each alone, from states of their own."""
    name, largest = "batched = alone", cell.spec.max_batch
    if largest == 1:
        return Check(name, "ok", "runs one session a call", 0)
    work = Inputs(cell).travelled(largest, steps=2)
    alone = [cell.run([each])[0] for each in work]
    figure, sizes = 0.0, sorted({min(size, largest) for size in (2, 3, largest)})
    for size in sizes:
        try:
            cell.answer(work[:size])  # `run` would fall back to each alone and hide it
        except Exception:  # ONNX Runtime's exceptions have no common class
            figure = math.inf
        for one, together in zip(alone, cell.run(work[:size]), strict=False):
            if isinstance(one, CellwireError) or isinstance(together, CellwireError):
                figure = math.inf
            else:
                figure = max(figure, difference(cell, one, together))
    detail = f"one step at batch {', '.join(map(str, sizes))}: largest difference {figure:.1e}"
    if figure <= TOLERANCE:
        return Check(name, "ok", detail, figure)
    return Check(name, "warning", f"{detail}; the model runs one session a call", figure)


def _resumed(cell: Cell) -> Check:
    """A state kept as bytes and taken up again goes on bit for bit: nothing of the cell is outside its state."""
    name = "resumed = unbroken"
    inputs = Inputs(cell)
    work = inputs.travelled(1, steps=2)[0]
    unbroken = cell.run([work])[0]
    cell.run(inputs.travelled(1, steps=3))  # another session in between
    resumed = cell.run([work._replace(state=bytes(bytearray(work.state)))])[0]
    if isinstance(unbroken, CellwireError) or isinstance(resumed, CellwireError) or unbroken != resumed:
        return Check(name, "failed", "the same state and input give other bits the second time")
    return Check(name, "ok", f"{len(work.state)} bytes of state, bit for bit", len(work.state))


def _moves(cell: Cell) -> Check:
    """Every tensor of the state changes under random inputs."""
    name, still = "state moves", {state.name for state in cell.spec.state}
    inputs = Inputs(cell)
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
