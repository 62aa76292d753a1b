"""The rules that read a graph's ports: which output feeds which input, and where batch and time are.

Knows names, dtypes and dimensions only; neither YAML nor ONNX. A rule that does not settle a question refuses
it with the key of the manifest that does.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BATCH_NAME = re.compile(r"batch|^(n|b|bs)$", re.IGNORECASE)
TIME_NAME = re.compile(r"seq|time|len|frame|step|^t$", re.IGNORECASE)


class ModelRefused(Exception):
    """A model that is not served: one line for its operator that names what was expected."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph, with its own axes."""

    name: str
    dtype: np.dtype | None
    """None: a type that no tensor of ours has (strings, sequences, bfloat16)."""
    dims: tuple[int | str | None, ...] | None
    """Numbers are fixed, names and None are free; None altogether: the graph does not even tell the rank."""

    def agrees(self, other: "Port") -> bool:
        """Same dtype and shape, as far as both are known: a free dimension agrees with any."""
        if self.dtype != other.dtype:
            return False
        if self.dims is None or other.dims is None:
            return True
        return len(self.dims) == len(other.dims) and all(
            a == b or not isinstance(a, int) or not isinstance(b, int)
            for a, b in zip(self.dims, other.dims, strict=True)
        )

    def __str__(self) -> str:
        dims = "[...]" if self.dims is None else f"[{', '.join(str(dim or '?') for dim in self.dims)}]"
        return f"{self.dtype.name if self.dtype is not None else 'unsupported'}{dims}"


def name_rule(name: str) -> tuple[str, ...]:
    """What the next value of the state input `name` may be called."""
    names = [f"{name}N", f"{name}n", f"{name}_out", f"next_{name}", f"new_{name}"]
    if name.endswith("_in"):
        names.append(f"{name.removesuffix('_in')}_out")
    if name.endswith("0"):
        names += [f"{name[:-1]}N", f"{name[:-1]}n"]
    return tuple(names)


def pair_states(
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    told: Mapping[str, str],
    wanted: Collection[str],
    model: str,
) -> dict[str, str]:
    """State input -> state output: as told, else by name rule where dtype and shape agree as well.

    `wanted` are the inputs that are state for sure. Raises ModelRefused with the candidates where an input in
    `wanted` finds no output, where a name fits and its dtype or shape does not, or where two would share one.
    """
    pairs: dict[str, str] = {}
    for port in inputs:
        if port.name in told:
            pairs[port.name] = told[port.name]
            continue
        named = [each for each in outputs if each.name in name_rule(port.name)]
        agreeing = [each.name for each in named if port.agrees(each)]
        if len(agreeing) == 1:
            pairs[port.name] = agreeing[0]
        elif named or port.name in wanted:
            candidates = agreeing or [each.name for each in outputs if port.agrees(each)]
            raise ModelRefused(
                f"{model}: state {port.name!r}: the output with its next value expected ({port});"
                f" candidates: {candidates or 'none'}"
            )
    outputs_used = list(pairs.values())
    for name, output in pairs.items():
        if outputs_used.count(output) > 1:
            raise ModelRefused(f"{model}: state {name!r}: {output!r} feeds two states, exactly one expected")
    return pairs


@dataclass(frozen=True, slots=True)
class Place:
    """One timestep of one session in a tensor of the graph."""

    shape: tuple[int, ...]
    batch_axis: int | None


def place(
    port: Port,
    shape: Sequence[int] | None,
    batch_axis: int | None,
    time_axis: int | None,
    carry: int,
    where: str,
) -> Place:
    """The shape of one timestep of one session in `port`, and its batch axis.

    `shape` and `batch_axis` as written, or None; `time_axis` None where the tensor has none; `carry` values
    stand before the client's along the last axis. Raises ModelRefused, beginning with `where`.
    """
    dims = port.dims
    if dims is None:
        if shape is None or batch_axis is None:
            raise ModelRefused(f"{where}: shape and batch_axis expected, the graph does not tell the rank")
        dims = (None,) * (len(shape) + 1 + (time_axis is not None))
    if time_axis is not None and not (0 <= time_axis < len(dims) and not isinstance(dims[time_axis], int)):
        raise ModelRefused(f"{where}: a free dimension at time_axis {time_axis} expected, it is {port}")
    axes = [axis for axis in range(len(dims)) if axis != time_axis]
    if batch_axis is None:
        batch_axis = _guess_batch_axis(dims, axes, shape, carry, where)
    else:
        batch_axis += len(dims) if batch_axis < 0 else 0
        if batch_axis not in axes or (isinstance(dims[batch_axis], int) and dims[batch_axis] != 1):
            raise ModelRefused(f"{where}: batch_axis: an axis that is free or 1 expected, it is {port}")
    if batch_axis is not None:
        axes.remove(batch_axis)
    told = _without_carry([dims[axis] for axis in axes], carry)
    if shape is None:
        if not all(isinstance(dim, int) for dim in told):
            raise ModelRefused(f"{where}: shape expected, the graph leaves it open: {port}")
        shape = [dim for dim in told if isinstance(dim, int)]
    if not _fits(told, shape) or any(dim < 1 for dim in shape) or (carry and not shape):
        before = f" with {carry} carried values before it" if carry else ""
        raise ModelRefused(f"{where}: a shape that fits {port}{before} expected, not {list(shape)}")
    return Place(tuple(shape), batch_axis)


def _guess_batch_axis(
    dims: Sequence[int | str | None],
    axes: Sequence[int],
    shape: Sequence[int] | None,
    carry: int,
    where: str,
) -> int | None:
    free = [axis for axis in axes if not isinstance(dims[axis], int)]
    named = [axis for axis in free if BATCH_NAME.search(str(dims[axis] or ""))]
    if len(named) == 1:
        return named[0]
    if shape is not None and len(shape) == len(axes):
        return None
    if not named and len(free) == 1 and not TIME_NAME.search(str(dims[free[0]] or "")):
        return free[0]
    if shape is None and not free:
        return None
    if shape is not None:
        able = [axis for axis in axes if axis in free or dims[axis] == 1]
        fitting = [
            axis for axis in able if _fits(_without_carry([dims[each] for each in axes if each != axis], carry), shape)
        ]
        if len(fitting) == 1:
            return fitting[0]
    raise ModelRefused(f"{where}: batch_axis expected, the graph leaves it open")


def _without_carry(dims: Sequence[int | str | None], carry: int) -> list[int | str | None]:
    last = dims[-1] if dims else None
    return [*dims[:-1], last - carry] if carry and isinstance(last, int) else list(dims)


def _fits(dims: Sequence[int | str | None], shape: Sequence[int]) -> bool:
    return len(dims) == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(dims, shape, strict=True)
    )
