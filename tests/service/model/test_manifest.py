"""The manifest against the graph: what is told, what is found by rule, and what is refused."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from service.model.contract import wire
from service.model.manifest import ManifestError, parse
from service.model.wiring import Port
from service.values import ModelSpec

F32, I64 = np.dtype("float32"), np.dtype("int64")
X = Port("x", F32, ("batch", 4))
Y = Port("y", F32, ("batch", 2))
H = Port("h", F32, (1, "batch", 8))


def spec(text: str, inputs: list[Port], outputs: list[Port], folder: Path = Path("nowhere")) -> ModelSpec:
    manifest = parse(text.encode(), "m")
    return wire(manifest, model="m", version="1", folder=folder, inputs=inputs, outputs=outputs)


def state_to(output: str, dims: tuple[int | str | None, ...] = (1, "batch", 8), dtype: np.dtype = F32) -> Port:
    return Port(output, dtype, dims)


def test_what_the_graph_tells_need_not_be_written() -> None:
    found = spec("", [X, H], [Y, state_to("hn")])
    assert [(each.name, each.shape, each.batch_axis) for each in found.inputs] == [("x", (4,), 0)]
    assert [(each.name, each.shape, each.batch_axis) for each in found.outputs] == [("y", (2,), 0)]
    assert [(each.name, each.output, each.shape, each.batch_axis) for each in found.state] == [("h", "hn", (1, 8), 1)]
    assert found.initial_state == bytes(32)
    assert found.max_batch == 64


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("state", "stateN"),
        ("h", "hn"),
        ("hidden", "hidden_out"),
        ("cache_0", "next_cache_0"),
        ("memory", "new_memory"),
        ("h_in", "h_out"),
        ("h0", "hN"),
        ("h0", "hn"),
    ],
)
def test_a_state_is_paired_by_its_name(name: str, output: str) -> None:
    found = spec("", [X, Port(name, F32, ("batch", 8))], [Y, Port(output, F32, ("batch", 8))])
    assert [(each.name, each.output) for each in found.state] == [(name, output)]


def test_order_never_pairs() -> None:
    states = [Port(name, F32, ("batch", 8)) for name in ("b", "a")]
    nexts = [Port(name, F32, ("batch", 8)) for name in ("a_out", "b_out")]
    found = spec("", [*states, X], [*nexts, Y])
    assert {each.name: each.output for each in found.state} == {"a": "a_out", "b": "b_out"}


def test_a_free_dimension_agrees_with_any() -> None:
    found = spec("", [X, Port("state", F32, (2, None, 8))], [Y, Port("stateN", F32, (None, None, None))])
    assert [(each.shape, each.batch_axis) for each in found.state] == [((2, 8), 1)]


@pytest.mark.parametrize("output", [state_to("hn", (1, "batch", 9)), state_to("hn", dtype=np.dtype("float64"))])
def test_a_name_that_fits_with_another_shape_or_dtype_is_refused_with_the_candidates(output: Port) -> None:
    with pytest.raises(ManifestError, match=r"^m: state 'h': .*candidates: \['other'\]$"):
        spec("", [X, H], [Y, output, state_to("other")])


def test_two_outputs_that_fit_are_refused_with_both() -> None:
    with pytest.raises(ManifestError, match=r"candidates: \['hn', 'next_h'\]"):
        spec("", [X, H], [Y, state_to("hn"), state_to("next_h")])


def test_one_output_never_feeds_two_states() -> None:
    text = "state: [{input: h, output: n}, {input: k, output: n}]"
    with pytest.raises(ManifestError, match="'n' feeds two states"):
        spec(text, [X, H, Port("k", F32, (1, "batch", 8))], [Y, state_to("n")])


def test_an_explicit_pair_of_another_shape_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"state 'h': its output 'n' is float32\[1, batch, 9\]"):
        spec("state: [{input: h, output: n}]", [X, H], [Y, state_to("n", (1, "batch", 9))])


def test_an_input_that_might_be_state_is_refused_with_its_candidates() -> None:
    with pytest.raises(ManifestError, match=r"inputs: .*state; outputs that could be its next value"):
        spec("", [X, H], [Y, state_to("after")])
    with pytest.raises(ManifestError, match=r"inputs: 'h' must be written .*\['after'\]"):
        spec("inputs: [{name: x}]", [X, H], [Y, state_to("after")])


def test_state_does_not_leave_as_an_output() -> None:
    text = "state: [{input: h, output: hn}]\noutputs: [{name: y}, {name: hn, shape: [1, 8]}]"
    with pytest.raises(ManifestError, match="state does not leave as an output"):
        spec(text, [X, H], [Y, state_to("hn")])


def test_a_carry_window_is_state_and_the_client_sees_the_input_without_it() -> None:
    text = "inputs: [{name: x, carry: {axis: -1, length: 64}}]"
    found = spec(text, [Port("x", F32, ("batch", 576))], [Y])
    assert (found.inputs[0].shape, found.inputs[0].carry) == ((512,), 64)
    assert [(each.shape, each.carried_input, each.output) for each in found.state] == [((64,), "x", None)]
    assert found.initial_state == bytes(256)


@pytest.mark.parametrize("carry", ["{axis: 0, length: 64}", "{length: 0}", "{length: 576}"])
def test_a_carry_window_that_cannot_be_is_refused(carry: str) -> None:
    with pytest.raises(ManifestError, match=r"carry|shape that fits"):
        spec(f"inputs: [{{name: x, carry: {carry}}}]", [Port("x", F32, ("batch", 576))], [Y])


def test_a_fixed_input_has_the_graphs_dtype() -> None:
    found = spec("fixed: {sr: 16000}", [X, Port("sr", I64, ())], [Y])
    assert (found.fixed[0].value.dtype, found.fixed[0].value.shape, int(found.fixed[0].value)) == (I64, (), 16000)


@pytest.mark.parametrize("value", ["0.5", "high", "[1, 2]", "1e999", "99999999999999999999", "[[1], [2, 3]]", "[]"])
def test_a_fixed_value_that_does_not_fit_is_refused(value: str) -> None:
    with pytest.raises(ManifestError, match=r"fixed"):
        spec(f"fixed: {{sr: {value}}}", [X, Port("sr", I64, ())], [Y])


def test_constants_and_ranges() -> None:
    text = "constants: [{name: who, low: 0, high: 9}]"
    found = spec(text, [X, Port("who", I64, ("batch",))], [Y])
    assert [(each.name, each.shape, each.low, each.high) for each in found.constants] == [("who", (), 0, 9)]


@pytest.mark.parametrize("limits", ["low: 3, high: 2", "high: 9223372036854775808"])
def test_a_range_that_cannot_be_is_refused(limits: str) -> None:
    with pytest.raises(ManifestError, match="low <= high within int64 expected"):
        spec(f"inputs: [{{name: i, {limits}}}]", [Port("i", I64, ("batch", 1))], [Y])


def test_a_range_of_a_float_is_refused() -> None:
    with pytest.raises(ManifestError, match="for integer inputs"):
        spec("inputs: [{name: x, low: 0}]", [X], [Y])


def test_a_batch_fixed_to_one_is_not_batched() -> None:
    fixed = [Port("x", F32, (1, 4))], [Port("y", F32, (1, 2))]
    assert spec("", *fixed).max_batch == 1
    text = "inputs: [{name: x, batch_axis: 0}]\noutputs: [{name: y, batch_axis: 0}]"
    assert (spec(text, *fixed).max_batch, spec(text, *fixed).inputs[0].shape) == (1, (4,))
    with pytest.raises(ManifestError, match="max_batch: 1 expected"):
        spec(f"{text}\nmax_batch: 2", *fixed)


def test_a_batch_fixed_to_more_is_refused() -> None:
    with pytest.raises(ManifestError, match="batch_axis: an axis that is free or 1 expected"):
        spec("inputs: [{name: x, batch_axis: 0}]", [Port("x", F32, (8, 4))], [Y])


def test_two_free_axes_are_not_guessed_between() -> None:
    with pytest.raises(ManifestError, match="batch_axis expected"):
        spec("inputs: [{name: x, shape: [4]}]", [Port("x", F32, (None, None))], [Y])


def test_a_free_axis_with_the_name_of_time_is_not_taken_as_batch() -> None:
    with pytest.raises(ManifestError, match="batch_axis expected"):
        spec("", [Port("x", F32, ("seq_len", 4))], [Y])


def test_the_time_axis_is_in_no_shape() -> None:
    inputs, outputs = [Port("x", F32, ("T", "batch", 4)), H], [Port("y", F32, ("T", "batch", 2)), state_to("hn")]
    found = spec("time_axis: 0", inputs, outputs)
    assert (found.inputs[0].shape, found.inputs[0].batch_axis) == ((4,), 1)
    assert (found.outputs[0].shape, found.outputs[0].batch_axis) == ((2,), 1)
    with pytest.raises(ManifestError, match="a free dimension at time_axis 2 expected"):
        spec("time_axis: 2", inputs, outputs)


def test_initial_values(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.float32).reshape(1, 8)
    np.save(tmp_path / "h.npy", values)
    (tmp_path / "h.bin").write_bytes(values.tobytes())
    ports = [X, H], [Y, state_to("hn")]
    for initial, expected in (
        ("0.5", np.full(8, 0.5, np.float32).tobytes()),
        ("{file: h.npy}", values.tobytes()),
        ("{file: h.bin}", values.tobytes()),
    ):
        found = spec(f"state: [{{input: h, initial: {initial}}}]", *ports, folder=tmp_path)
        assert found.initial_state == expected


@pytest.mark.parametrize("file", ["../h.bin", "/h.bin", "link.bin", "short.bin", "none.bin", "odd.npy", '"\\0"'])
def test_an_initial_value_from_elsewhere_or_of_another_size_is_refused(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "h.bin").write_bytes(bytes(32))
    (folder / "link.bin").symlink_to(tmp_path / "h.bin")
    (folder / "short.bin").write_bytes(bytes(31))
    (folder / "odd.npy").write_bytes(b"not numpy's")
    with pytest.raises(ManifestError, match=r"state 'h'.initial: a file beside model.yaml with float32\[1, 8\]"):
        spec(f"state: [{{input: h, initial: {{file: {file}}}}}]", [X, H], [Y, state_to("hn")], folder=folder)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("inptus: []", "inptus"),
        ("inputs: [{name: x, shpae: [4]}]", "inputs.0.shpae"),
        ("state: [{input: h, initial: {fiel: x}}]", "fiel"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_it(text: str, key: str) -> None:
    with pytest.raises(ManifestError, match=key):
        parse(text.encode(), "m")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_batch: 2\nmax_batch: 3", "written twice"),
        ("fixed: {a: &a [1], b: *a}", "aliases are not allowed"),
        ("max_batch: 0", "max_batch: "),
        ("max_batch: '8'", "max_batch: "),
        ("idle_ttl: .inf", "idle_ttl: "),
        ("- a list", "a mapping of keys expected"),
        ("[" * 5000, "is not the YAML expected"),
        ("inputs: [{name: x}, {name: x}]", "written twice"),
    ],
)
def test_a_manifest_that_means_nothing_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason) as refusal:
        spec(text, [X], [Y])
    assert str(refusal.value).startswith("m: ")
    assert "\n" not in str(refusal.value)


def test_a_dtype_is_checked_in_either_vocabulary() -> None:
    for dtype in ("float32", "FP32"):
        assert spec(f"inputs: [{{name: x, dtype: {dtype}}}]", [X], [Y]).inputs[0].dtype == F32
    with pytest.raises(ManifestError, match="dtype float32 expected"):
        spec("inputs: [{name: x, dtype: FP16}]", [X], [Y])


def test_a_tensor_of_strings_is_refused() -> None:
    with pytest.raises(ManifestError, match="the dtype of 'x' is not supported"):
        spec("", [Port("x", None, ("batch", 4))], [Y])


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_garbage_never_gives_anything_but_a_manifest_error(text: bytes) -> None:
    _only_manifest_errors(text)


KEYS = st.sampled_from(
    [
        "inputs",
        "constants",
        "fixed",
        "state",
        "outputs",
        "gates",
        "time_axis",
        "max_batch",
        "idle_ttl",
        "provider",
        "name",
        "dtype",
        "shape",
        "batch_axis",
        "low",
        "high",
        "carry",
        "axis",
        "length",
        "initial",
        "file",
        "input",
        "output",
        "x",
        "y",
        "h",
        "hn",
    ]
)
WORDS = st.sampled_from(["x", "y", "h", "hn", "zeros", "cpu", "float32", "", "\0"])
LEAVES = st.none() | st.booleans() | st.integers(-4, 9) | st.integers() | st.floats() | WORDS
NESTED = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5))
TENSORS = st.lists(st.fixed_dictionaries({"name": WORDS}, optional={"shape": NESTED, "batch_axis": LEAVES,
                                          "carry": NESTED, "low": LEAVES, "high": LEAVES}), max_size=2)  # fmt: skip
STATES = st.lists(st.fixed_dictionaries({"input": WORDS}, optional={"output": WORDS, "initial": NESTED}), max_size=2)
MANIFESTS = st.fixed_dictionaries(
    {},
    optional={
        "inputs": TENSORS,
        "constants": TENSORS,
        "outputs": TENSORS,
        "gates": TENSORS,
        "state": STATES,
        "fixed": st.dictionaries(WORDS, NESTED, max_size=2),
        "time_axis": LEAVES,
        "max_batch": LEAVES,
    },
)


@given(st.dictionaries(KEYS, NESTED, max_size=6) | MANIFESTS)
def test_garbage_of_the_right_words_never_gives_anything_but_a_manifest_error(document: dict[str, object]) -> None:
    _only_manifest_errors(yaml.safe_dump(document).encode())


def _only_manifest_errors(text: bytes) -> None:
    with contextlib.suppress(ManifestError):
        manifest = parse(text, "m")
        for inputs, outputs in (([X, H], [Y, state_to("hn")]), ([Port("x", F32, None)], [Port("y", I64, (None,))])):
            wire(manifest, model="m", version="1", folder=Path("nowhere"), inputs=inputs, outputs=outputs)
