"""One call of a graph at one size: so many sessions, so many timesteps of each.

All that does not depend on the numbers is settled when it is made: its memory, what the graph is bound to, and the
views through which rows of bytes enter and leave. No Python loop ever goes over numbers here.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from math import prod

import numpy as np
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view

from service.errors import CellwireError, NonFinite
from service.model.device import Host
from service.model.layout import Array, Layout, Tensors, raw, state_row
from service.values import CellResult, CellWork, InputSpec, ModelSpec, maker

_result = maker(CellResult)


class Call:
    """`sessions` sessions, `timesteps` timesteps of each: `fill`, `run`, then `results`."""

    def __init__(
        self, spec: ModelSpec, session: onnxruntime.InferenceSession, host: Host, sessions: int, timesteps: int
    ) -> None:
        self._sessions, self._timesteps, self._host = sessions, timesteps, host
        inputs = {each.name: Layout(each, spec.time_axis, each.carry) for each in spec.inputs}
        constants = {each.name: Layout(each, None) for each in spec.constants}
        outputs = {each.name: Layout(each, spec.time_axis) for each in (*spec.outputs, *spec.gates)}
        paired = [(at, each, str(each.output)) for at, each in enumerate(spec.state) if each.output is not None]
        now = {each.name: Layout(each, None) for _, each, _ in paired}
        then = {output: Layout(each, None) for _, each, output in paired}
        feeds = Tensors(now | inputs | constants, sessions, timesteps, partial(host.block, "feeds"))
        answers = Tensors(outputs | then, sessions, timesteps, partial(host.block, "answers"))
        fixed = {each.name: each.value for each in spec.fixed}
        self.feeds = feeds.arrays | fixed
        """What the graph is given, by name."""
        self.run = host.bind(session, feeds, fixed, answers)
        """Runs the graph on what was filled in; raises what ONNX Runtime raises."""

        # copies to make on either side of a run, in this order: (target, source)
        self._before: list[tuple[Array, Array]] = []
        self._after: list[tuple[Array, Array]] = []
        states = self._scratch("states", state_row(spec.state), (sessions,))
        fields = [states[f"f{at}"] for at in range(len(spec.state))]
        for at, each, output in paired:
            self._before.append((feeds.rows(each.name), fields[at]))
            self._after.append((fields[at], answers.rows(output)))
        windows = {each.carried_input: field for each, field in zip(spec.state, fields, strict=True)}
        entered = [self._entrance(each, feeds.rows(each.name), windows.get(each.name)) for each in spec.inputs]
        entered += [self._entrance(each, feeds.rows(each.name), None) for each in spec.constants]
        left = [self._exit(name, answers.rows(name)) for name in outputs]

        self._states_in = raw(states).data
        self._rows_in = [raw(rows).data for rows in entered]
        self._states_out = states.view(f"V{states.itemsize}")
        self._rows_out = [raw(rows).view(f"V{outputs[name].nbytes}") for name, rows in zip(outputs, left, strict=True)]
        self._watch([each for each in (*_numbers(states, fields), *left) if each.dtype.kind == "f"])

    def fill(self, work: Sequence[CellWork]) -> None:
        """Take the states and rows of so many sessions in."""
        states, spans, constants = zip(*work, strict=True)
        self._states_in[:] = b"".join(states)
        columns = chain(zip(*chain.from_iterable(spans), strict=True), zip(*constants, strict=True))
        for entrance, column in zip(self._rows_in, columns, strict=True):
            entrance[:] = b"".join(column)
        for target, source in self._before:
            target[...] = source

    def results(self) -> list[CellResult | CellwireError]:
        """What the run came to, in the order of the work, each with bytes of its own."""
        for target, source in self._after:
            target[...] = source
        replies = zip(*[rows.tolist() for rows in self._rows_out], strict=True)
        spans = zip(*[replies] * self._timesteps, strict=True)
        pairs = zip(self._states_out.tolist(), spans, strict=True)
        results: list[CellResult | CellwireError] = list(map(_result, pairs))
        for numbers, finite in self._watched:
            np.isfinite(numbers, out=finite)
        if b"\0" in self._finite.tobytes():  # the fastest way to ask whether all are
            for at in self._poisoned():
                results[at] = NonFinite("the model gave a number that is not finite")
        return results

    def _watch(self, floats: Sequence[Array]) -> None:
        """Keep a flag for each number of these arrays [B, ..], which must be finite."""
        self._finite = self._scratch("finite", np.dtype(bool), (sum(each.size for each in floats),))
        self._watched: list[tuple[Array, Array]] = []
        start = 0
        for each in floats:
            self._watched.append((each, self._finite[start : start + each.size].reshape(each.shape)))
            start += each.size

    def _scratch(self, role: str, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
        return np.ndarray(shape, dtype, self._host.block(role, prod(shape) * dtype.itemsize))

    def _entrance(self, spec: InputSpec, rows: Array, window: Array | None) -> Array:
        """Contiguous rows [B, (T,) *shape] to fill; what else is in the graph's `rows` is copied before the run."""
        if window is None:
            return self._staged(spec.name, rows)
        if rows.ndim == window.ndim:
            line = rows
            told = line[..., spec.carry :]
        else:
            # [B, T, .., L]: the timesteps lie end to end, and a window that reaches back is cut for each
            length, lead = spec.shape[-1], window.shape[:-1]
            line = self._scratch(f"line of {spec.name}", spec.dtype, (*lead, spec.carry + self._timesteps * length))
            told = np.moveaxis(line[..., spec.carry :].reshape(*lead, self._timesteps, length), -2, 1)
        staged = self._staged(spec.name, told)
        self._before.append((line[..., : spec.carry], window))
        if line is not rows:
            cut = sliding_window_view(line, spec.carry + spec.shape[-1], axis=-1)[..., :: spec.shape[-1], :]
            self._before.append((rows, np.moveaxis(cut, -2, 1)))
        self._before.append((window, line[..., -spec.carry :]))
        return staged

    def _staged(self, name: str, rows: Array) -> Array:
        """Where the bytes for `rows` go: there, or into memory of their own where they do not lie in a row."""
        if rows.flags.c_contiguous:
            return rows
        staged = self._scratch(f"fed {name}", rows.dtype, rows.shape)
        self._before.append((rows, staged))
        return staged

    def _exit(self, name: str, rows: Array) -> Array:
        """The graph's `rows`, or a copy to make of them where their bytes do not lie in a row."""
        if rows.flags.c_contiguous:
            return rows
        staged = self._scratch(f"told {name}", rows.dtype, rows.shape)
        self._after.append((staged, rows))
        return staged

    def _poisoned(self) -> set[int]:
        """The sessions with a number that is not finite."""
        sessions = [finite.reshape(self._sessions, -1).all(axis=1) for _, finite in self._watched]
        return set(np.flatnonzero(~np.logical_and.reduce(sessions)).tolist())


def _numbers(states: Array, fields: Sequence[Array]) -> Sequence[Array]:
    """The tensors of `states`, as one array where they are of one dtype."""
    dtypes = {field.dtype for field in fields}
    return [raw(states).view(*dtypes).reshape(len(states), -1)] if len(dtypes) == 1 else fields
