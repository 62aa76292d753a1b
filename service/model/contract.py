"""The contract of a model: what its manifest says and what its graph tells, made into one ModelSpec.

Knows the manifest and the rules of wiring. Must not know ONNX, ONNX Runtime or the layout of a repository: the
graph arrives as a list of ports. What the graph tells need not be written; what it leaves open is refused with
the key that settles it, never guessed by order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.model.manifest import (
    PROVIDERS,
    TRITON_DTYPES,
    Carry,
    Constant,
    Initial,
    InitialFile,
    Input,
    Manifest,
    ManifestError,
    State,
    Tensor,
)
from service.model.numbers import exact, from_file
from service.model.wiring import ModelRefused, Place, Port, pair_states, place
from service.values import FixedSpec, InputSpec, ModelSpec, StateSpec, TensorSpec

DEFAULT_MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class _Wiring:
    """The manifest of one model against the ports of its graph."""

    model: str
    manifest: Manifest
    folder: Path
    inputs: dict[str, Port]
    outputs: dict[str, Port]

    def port(self, side: str, name: str, dtype: str | None, field: str) -> Port:
        ports = self.inputs if side == "input" else self.outputs
        if name not in ports:
            raise ManifestError(
                f"{self.model}: {field}: the graph has no {side} {name!r}, expected one of {sorted(ports)}"
            )
        port = ports[name]
        if port.dtype is None:
            raise ManifestError(f"{self.model}: {field}: the dtype of {name!r} is not supported")
        if dtype is not None and TRITON_DTYPES.get(dtype, dtype) != port.dtype.name:
            raise ManifestError(f"{self.model}: {field}: dtype {port.dtype.name} expected, as in the graph")
        return port

    def place(self, port: Port, written: Tensor | State, field: str, *, timed: bool, carry: int = 0) -> Place:
        time_axis = self.manifest.time_axis if timed else None
        return place(port, written.shape, written.batch_axis, time_axis, carry, f"{self.model}: {field}")

    def initial(self, spec: TensorSpec, value: Initial, field: str) -> bytes:
        if value == "zeros":
            return bytes(spec.nbytes)
        if isinstance(value, InitialFile):
            return from_file(spec, self.folder, value.file, f"{self.model}: {field}")
        return np.full(spec.shape, exact(value, spec.dtype, f"{self.model}: {field}"), spec.dtype).tobytes()

    def input(self, written: Constant, field: str, *, timed: bool) -> InputSpec:
        port = self.port("input", written.name, written.dtype, field)
        carry = written.carry.length if isinstance(written, Input) and written.carry else 0
        where = self.place(port, written, field, timed=timed, carry=carry)
        assert port.dtype is not None  # noqa: S101 (self.port refused it)
        if written.low is not None or written.high is not None:
            self._check_range(written, port.dtype, field)
        return InputSpec(
            name=written.name,
            dtype=port.dtype,
            shape=where.shape,
            batch_axis=where.batch_axis,
            low=written.low,
            high=written.high,
            carry=carry,
        )

    def _check_range(self, written: Constant, dtype: np.dtype, field: str) -> None:
        if dtype.kind not in "iu":
            raise ManifestError(f"{self.model}: {field}: low and high are for integer inputs")
        limits = np.iinfo(dtype)
        low = limits.min if written.low is None else written.low
        high = limits.max if written.high is None else written.high
        if not limits.min <= low <= high <= limits.max:
            raise ManifestError(f"{self.model}: {field}: low <= high within {dtype.name} expected")

    def output(self, written: Tensor, field: str) -> TensorSpec:
        port = self.port("output", written.name, written.dtype, field)
        assert port.dtype is not None  # noqa: S101 (self.port refused it)
        where = self.place(port, written, field, timed=True)
        return TensorSpec(written.name, port.dtype, where.shape, where.batch_axis)

    def state(self, written: State, output: str) -> StateSpec:
        field = f"state {written.input!r}"
        port = self.port("input", written.input, written.dtype, field)
        after = self.port("output", output, None, field)
        assert port.dtype is not None  # noqa: S101 (self.port refused it)
        if not port.agrees(after):
            raise ManifestError(
                f"{self.model}: {field}: its output {output!r} is {after}, {port} expected as of the input"
            )
        where = self.place(port, written, field, timed=False)
        bare = TensorSpec(written.input, port.dtype, where.shape, where.batch_axis)
        initial = self.initial(bare, written.initial, f"{field}.initial")
        return StateSpec(bare.name, bare.dtype, bare.shape, bare.batch_axis, output=output, initial=initial)

    def carry_window(self, spec: InputSpec, written: Carry) -> StateSpec:
        shape = (*spec.shape[:-1], spec.carry)
        bare = TensorSpec(f"{spec.name}.carry", spec.dtype, shape, None)
        initial = self.initial(bare, written.initial, f"inputs {spec.name!r}.carry.initial")
        return StateSpec(bare.name, bare.dtype, shape, None, carried_input=spec.name, initial=initial)

    def fixed(self, name: str, value: object) -> FixedSpec:
        field = f"fixed {name!r}"
        port = self.port("input", name, None, field)
        assert port.dtype is not None  # noqa: S101 (self.port refused it)
        array = exact(value, port.dtype, f"{self.model}: {field}")
        if port.dims is not None and array.ndim == 0 and all(isinstance(dim, int) for dim in port.dims):
            array = np.full([int(dim or 0) for dim in port.dims], array)
        if not port.agrees(Port(name, array.dtype, array.shape)):
            raise ManifestError(f"{self.model}: {field}: a value of {port} expected")
        return FixedSpec(name, array)


def wire(
    manifest: Manifest,
    *,
    model: str,
    version: str,
    folder: Path,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
) -> ModelSpec:
    """The contract of one model version, still without its digest.

    `folder` holds the manifest and its initial values; `inputs` and `outputs` are the graph's.
    Raises ManifestError.
    """
    wiring = _Wiring(model, manifest, folder, {p.name: p for p in inputs}, {p.name: p for p in outputs})
    try:
        return _wire(wiring, version)
    except ManifestError:
        raise
    except ModelRefused as error:
        raise ManifestError(str(error)) from None


def _wire(wiring: _Wiring, version: str) -> ModelSpec:
    manifest, model = wiring.manifest, wiring.model
    _refuse_twice(
        model,
        [t.name for t in (*(manifest.inputs or ()), *manifest.constants)]
        + list(manifest.fixed)
        + [s.input for s in manifest.state],
    )
    _refuse_twice(model, [t.name for t in (*(manifest.outputs or ()), *manifest.gates)])
    fixed = tuple(wiring.fixed(name, value) for name, value in manifest.fixed.items())
    constants = tuple(wiring.input(each, f"constants {each.name!r}", timed=False) for each in manifest.constants)
    pairs, rest = _pairs(wiring)
    state = [wiring.state(written, output) for written, output in pairs]
    written_inputs = manifest.inputs if manifest.inputs is not None else [Input(name=name) for name in rest]
    specs = [wiring.input(each, f"inputs {each.name!r}", timed=True) for each in written_inputs]
    state += [
        wiring.carry_window(spec, each.carry) for spec, each in zip(specs, written_inputs, strict=True) if each.carry
    ]
    taken = {output for _, output in pairs} | {gate.name for gate in manifest.gates}
    written_outputs = manifest.outputs
    if written_outputs is None:
        written_outputs = [Tensor(name=name) for name in wiring.outputs if name not in taken]
    outputs = tuple(wiring.output(each, f"outputs {each.name!r}") for each in written_outputs)
    _refuse_state_as_output(model, outputs, {output for _, output in pairs})
    if not specs:
        raise ManifestError(f"{model}: inputs: at least one input with each message expected")
    if not outputs:
        raise ManifestError(f"{model}: outputs: at least one output expected")
    gates = tuple(wiring.output(each, f"gates {each.name!r}") for each in manifest.gates)
    tensors = (*specs, *constants, *(s for s in state if s.output), *outputs, *gates)
    return ModelSpec(
        name=model,
        version=version,
        digest=b"",
        inputs=tuple(specs),
        constants=constants,
        fixed=fixed,
        outputs=outputs,
        gates=gates,
        state=tuple(state),
        max_batch=_max_batch(wiring, tensors),
        time_axis=_time_axis(wiring),
        idle_ttl=manifest.idle_ttl,
        write_behind=manifest.write_mode == "write_behind",
        provider=PROVIDERS[manifest.provider],
    )


def _refuse_twice(model: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ManifestError(f"{model}: {name!r} is written twice, each tensor once expected")


def _refuse_state_as_output(model: str, outputs: Iterable[TensorSpec], taken: set[str]) -> None:
    for spec in outputs:
        if spec.name in taken:
            raise ManifestError(f"{model}: outputs {spec.name!r}: state does not leave as an output")


def _pairs(wiring: _Wiring) -> tuple[list[tuple[State, str]], list[str]]:
    """The state pairs, and the graph's inputs that are neither state nor written."""
    manifest, model = wiring.manifest, wiring.model
    written = {t.name for t in (*(manifest.inputs or ()), *manifest.constants)} | set(manifest.fixed)
    explicit = {state.input: state for state in manifest.state}
    free_inputs = [p for p in wiring.inputs.values() if p.name not in written]
    told = {state.input: state.output for state in manifest.state if state.output is not None}
    for state in manifest.state:
        wiring.port("input", state.input, None, f"state {state.input!r}")
    closed = {t.name for t in (*(manifest.outputs or ()), *manifest.gates)}
    open_outputs = [p for p in wiring.outputs.values() if p.name not in closed or p.name in told.values()]
    pairs = pair_states(free_inputs, open_outputs, told, set(explicit), model)
    rest = [p.name for p in free_inputs if p.name not in pairs]
    # two inputs left over may be an input and a state whose names follow no rule: nobody but the author knows
    if rest and (manifest.inputs is not None or len(rest) > 1):
        candidates = {name: [p.name for p in open_outputs if wiring.inputs[name].agrees(p)] for name in rest}
        raise ManifestError(
            f"{model}: inputs: {rest[0]!r} must be written under inputs, constants, fixed or state;"
            f" outputs that could be its next value: {candidates[rest[0]] or 'none'}"
        )
    return [(explicit.get(name) or State(input=name), output) for name, output in pairs.items()], rest


def _time_axis(wiring: _Wiring) -> int | None:
    axis = wiring.manifest.time_axis
    if axis is not None and axis < 0:
        raise ManifestError(f"{wiring.model}: time_axis: an axis counted from 0 expected")
    return axis


def _max_batch(wiring: _Wiring, tensors: Iterable[TensorSpec]) -> int:
    """As many sessions as one call may have: 1 where the graph has no free batch axis in every tensor."""
    alone = None
    for spec in tensors:
        port = wiring.inputs.get(spec.name) or wiring.outputs[spec.name]
        if spec.batch_axis is None:
            alone = f"{spec.name!r} has no batch axis"
        elif port.dims is not None and isinstance(port.dims[spec.batch_axis], int):
            alone = f"the batch of {spec.name!r} is fixed to 1"
    batches = {
        dims[spec.batch_axis]
        for spec in tensors
        if spec.batch_axis is not None and spec.name in wiring.inputs and (dims := wiring.inputs[spec.name].dims)
    }
    for name in wiring.manifest.fixed:
        if any(isinstance(dim, str) and dim in batches for dim in wiring.inputs[name].dims or ()):
            alone = f"the fixed {name!r} has a batch axis"
    written = wiring.manifest.max_batch
    if alone and written is not None and written > 1:
        raise ManifestError(f"{wiring.model}: max_batch: 1 expected, {alone}")
    return 1 if alone else written or DEFAULT_MAX_BATCH
