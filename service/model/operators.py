"""What the recurrent operators of a graph say about streaming it one timestep at a time.

Knows LSTM, GRU and RNN as ONNX defines them and which state inputs reach them; runs nothing.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx

from service.model.graph import node_graphs, nodes, subgraphs

RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
INITIAL_H = 5
"""The place of initial_h among the inputs of each recurrent operator (of DynamicQuantizeLSTM too)."""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about one operator; `refused` where the model cannot be served as a stream."""

    operator: str
    detail: str
    refused: bool


def remarks(model: onnx.ModelProto, state_inputs: Collection[str]) -> list[Remark]:
    """What is to be said about each recurrent operator, subgraphs too."""
    origins = _Origins(model)
    excused = _spare_branches(model, origins, set(state_inputs))
    from_pytorch = model.producer_name == "pytorch"
    return [
        Remark(f"{node.op_type} {node.name or '(unnamed)'}", detail, refused)
        for node in nodes(model)
        if node.op_type in RECURRENT and tuple(node.output) not in excused
        for detail, refused in _of(node, origins, state_inputs, from_pytorch)
    ]


def _of(
    node: onnx.NodeProto, origins: "_Origins", state_inputs: Collection[str], from_pytorch: bool
) -> Iterator[tuple[str, bool]]:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    direction = attributes.get("direction", b"forward").decode()
    reached = origins.reach(node, set(state_inputs))
    if attributes.get("layout", 0) == 1:
        yield "layout 1, 0 expected (ONNX Runtime's CPU refuses the other)", True
    if direction != "forward" and reached:
        yield f"runs {direction} over time with a state of the session: it cannot stream", True
    if direction != "forward" and not reached:
        yield f"runs {direction}: right only over another axis than time", False
    if direction == "forward" and not reached:
        yield "no state of the session reaches it: it starts anew at each call (hidden state)", False
    if node.op_type == "GRU" and attributes.get("linear_before_reset", 0) == 0 and from_pytorch:
        yield "linear_before_reset 0 from PyTorch, 1 expected: its numbers are likely wrong", False


def _spare_branches(model: onnx.ModelProto, origins: "_Origins", state_inputs: set[str]) -> set[tuple[str, ...]]:
    """Operators without a state, where the other branch of their If has the same with one.

    PyTorch exports `if state is None: start from zeros` so; a session always takes the other branch.
    """
    spare: set[tuple[str, ...]] = set()
    for branching in nodes(model):
        if branching.op_type != "If":
            continue
        branches = [
            [node for graph in subgraphs(held) for node in graph.node if node.op_type in RECURRENT]
            for held in node_graphs(branching)
        ]
        fed = [any(origins.reach(node, state_inputs) for node in branch) for branch in branches]
        if any(fed):
            spare.update(
                tuple(n.output) for branch, reached in zip(branches, fed, strict=True) if not reached for n in branch
            )
    return spare


class _Origins:
    """Which of the graph's inputs a value is made from; names are taken as unique over subgraphs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._inputs = {each.name for each in model.graph.input}
        self._made_from: dict[str, set[str]] = {}
        for graph in subgraphs(model.graph):
            for node in graph.node:
                uses = set(node.input) | {name for held in node_graphs(node) for name in _used(held)}
                for output in node.output:
                    self._made_from.setdefault(output, set()).update(uses)

    def reach(self, node: onnx.NodeProto, state_inputs: set[str]) -> bool:
        """Whether the initial hidden state of a recurrent operator comes from one of the state inputs."""
        initial = node.input[INITIAL_H] if len(node.input) > INITIAL_H else ""
        return bool(initial) and bool(self.of(initial) & state_inputs)

    def of(self, name: str) -> set[str]:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            each = waiting.pop()
            if each and each not in seen:
                seen.add(each)
                waiting.extend(self._made_from.get(each, ()))
        return seen & self._inputs


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    for each in subgraphs(graph):
        for node in each.node:
            yield from node.input
