"""The proof at load: what passes, what is refused, and what runs one session a call."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.cells import build, checker, draw
from service.model.proof import Check, ModelRefused, Proof, doctor, load
from tests.zoo import graph, write


def check(proof: Proof, name: str) -> Check:
    """The one check of that name."""
    (found,) = [each for each in proof.checks if each.name == name]
    return found


def proof_of(root: Path, model: onnx.ModelProto, manifest: str = "") -> Proof:
    return doctor(write(root, model, manifest), "small")


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_good_cell_passes_every_check(tmp_path: Path, kind: str) -> None:
    proof = proof_of(tmp_path, build(draw(kind, 4, 16, layers=2, outputs=2)))  # type: ignore[arg-type]
    assert [(each.name, each.status) for each in proof.checks] == [
        ("recurrent operators", "ok"),
        ("state pairs", "ok"),
        ("answers", "ok"),
        ("stepped = whole", "ok"),
        ("batched = alone", "ok"),
        ("resumed = unbroken", "ok"),
        ("state moves", "ok"),
    ]
    assert proof.failed is None
    assert proof.max_batch == 64


def test_load_gives_a_warm_cell(tmp_path: Path) -> None:
    cell = load(write(tmp_path, checker(), "max_batch: 4"), "small")
    assert cell.spec.max_batch == 4
    assert cell.seconds(4) < 1000


def test_integers_are_drawn_from_their_range(tmp_path: Path) -> None:
    model = graph("(int64[batch,1] i, float[batch,1] s) => (float[batch,1] y, float[batch,1] sn)",
                  "at = Sub(i, four) e = Gather(table, at) sn = Add(s, e) y = Identity(sn)")  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.arange(1, 4, dtype=np.float32), "table"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(4), "four"))
    assert proof_of(tmp_path, model, "inputs: [{name: i, low: 1, high: 2}]").failed is None
    failed = proof_of(tmp_path, model, "inputs: [{name: i, low: 7, high: 7}]").failed
    assert failed is not None
    assert failed.name == "answers"
    assert "ONNX Runtime: " in failed.detail


def test_a_graph_that_answers_in_another_shape_is_refused(tmp_path: Path) -> None:
    model = graph("(float[batch,2] x) => (float[n,m] y)", "y = Concat<axis = 0>(x, x)")
    failed = proof_of(tmp_path, model, "outputs: [{name: y, shape: [2], batch_axis: 0}]").failed
    assert failed is not None
    assert failed.name == "answers"
    assert "float32[2, 2]" in failed.detail


COUPLED = graph("(float[batch,2] x, float[batch,2] s) => (float[batch,2] y, float[batch,2] sn)",
                "m = ReduceMean<axes = [0]>(x) sn = Add(s, m) y = Sub(x, m)")  # fmt: skip


def test_a_batch_that_is_not_its_members_alone_is_given_up(tmp_path: Path) -> None:
    """As dynamically quantised graphs are: one scale is taken over the whole batch."""
    proof = proof_of(tmp_path, COUPLED)
    assert check(proof, "batched = alone").status == "warning"
    assert "one session a call" in check(proof, "batched = alone").detail
    assert (proof.failed, proof.max_batch) == (None, 1)
    assert load(write(tmp_path, COUPLED), "small").spec.max_batch == 1


def test_a_batch_that_the_graph_fails_on_is_given_up(tmp_path: Path) -> None:
    model = graph("(float[batch,2] x) => (float[batch,2] y)", "y = Reshape(x, one)")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "one"))
    assert proof_of(tmp_path, model).max_batch == 1


def test_a_call_that_is_not_its_timesteps_is_refused(tmp_path: Path) -> None:
    """Each timestep sees the later ones: fine for a whole recording, no stream."""
    ahead = graph("(float[batch,T,1] x) => (float[batch,T,1] y)", "m = ReduceMean<axes = [1]>(x) y = Sub(x, m)")
    failed = proof_of(tmp_path, ahead, "time_axis: 1").failed
    assert failed is not None
    assert failed.name == "stepped = whole"


def test_a_call_that_is_its_timesteps_passes(tmp_path: Path) -> None:
    found = check(proof_of(tmp_path, build(draw("gru", 3, 4), sequence=True), "time_axis: 1"), "stepped = whole")
    assert (found.status, found.detail[:11]) == ("ok", "8 timesteps")


def test_memory_outside_the_state_is_refused(tmp_path: Path) -> None:
    model = graph("(float[batch,2] x, float[batch,2] s) => (float[batch,2] y, float[batch,2] sn)",
                  "r = RandomNormalLike(x) sn = Add(s, r) y = Add(x, r)")  # fmt: skip
    proof = proof_of(tmp_path, model, "max_batch: 1")
    assert check(proof, "resumed = unbroken").status == "failed"


def test_a_state_that_never_moves_is_refused_by_name(tmp_path: Path) -> None:
    model = graph(
        "(float[batch,2] x, float[batch,2] h, float[batch,2] c)"
        " => (float[batch,2] y, float[batch,2] hn, float[batch,2] cn)",
        "hn = Add(h, x) cn = Identity(c) y = Add(x, c)",
    )
    repository = write(tmp_path, model)
    assert "['c'] never change" in check(doctor(repository, "small"), "state moves").detail
    with pytest.raises(ModelRefused, match=r"^small/1: state moves: \['c'\] never change"):
        load(repository, "small")


def recurrent(operator: str, *, state: bool = True, producer: str = "", **attributes: object) -> onnx.ModelProto:
    """One recurrent operator of 4 numbers over x [1, batch, 2], with or without a state of the session."""
    model = build(draw("gru", 2, 4) if operator == "GRU" else draw("lstm", 2, 4))
    model.producer_name = producer
    (node,) = [node for node in model.graph.node if node.op_type == operator]
    for name, value in attributes.items():
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])
    if not state:
        for place in range(5, len(node.input)):
            node.input[place] = ""
    return model


@pytest.mark.parametrize(
    ("model", "status", "detail"),
    [
        (recurrent("GRU", direction="reverse"), "failed", "cannot stream"),
        (recurrent("GRU", producer="pytorch", linear_before_reset=0), "warning", "linear_before_reset 0 from PyTorch"),
        (recurrent("LSTM", state=False), "warning", "hidden state"),
        (recurrent("GRU", state=False, direction="reverse"), "warning", "right only over another axis"),
    ],
)
def test_what_recurrent_operators_say(tmp_path: Path, model: onnx.ModelProto, status: str, detail: str) -> None:
    (found,) = [each for each in proof_of(tmp_path, model).checks if each.name == "recurrent operators"]
    assert found.status == status
    assert detail in found.detail


def test_layout_1_is_refused_in_our_words(tmp_path: Path) -> None:
    (found,) = proof_of(tmp_path, recurrent("LSTM", layout=1)).checks
    assert (found.name, found.status) == ("opens", "failed")
    assert "layout 1, 0 expected" in found.detail


def test_operators_in_subgraphs_are_seen(tmp_path: Path) -> None:
    inner = recurrent("GRU", producer="pytorch", linear_before_reset=0).graph
    model = graph("(float[batch,2] x, float[1,batch,4] hidden) => (float[batch,4] y, float[1,batch,4] hidden_out)", "")
    model.producer_name = "pytorch"
    branch = helper.make_graph(
        list(inner.node),
        "branch", [], list(inner.output), list(inner.initializer),
    )  # fmt: skip
    other = onnx.GraphProto.FromString(branch.SerializeToString())
    for node in other.node:
        for names in (node.input, node.output):
            names[:] = [f"other_{name}" if name in _made(branch) else name for name in names]
    for output in other.output:
        output.name = f"other_{output.name}"
    condition = numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    model.graph.node.append(
        helper.make_node("If", ["condition"], ["y", "hidden_out"], then_branch=branch, else_branch=other)
    )
    found = [each for each in proof_of(tmp_path, model).checks if each.name == "recurrent operators"]
    assert ["linear_before_reset 0" in each.detail for each in found] == [True, True]


def _made(held: onnx.GraphProto) -> set[str]:
    return {output for node in held.node for output in node.output}


def test_a_model_that_does_not_open_has_one_failed_check(tmp_path: Path) -> None:
    proof = doctor(write(tmp_path, b"nothing"), "small")
    assert [(each.name, each.status) for each in proof.checks] == [("opens", "failed")]
    assert doctor(write(tmp_path, checker(), "colour: red"), "small").checks[0].detail == "small: unknown key 'colour'"
