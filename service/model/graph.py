"""An ONNX graph read before ONNX Runtime sees it: its ports, its operators, the files it names.

Knows the ONNX format and what of it is safe to load; no manifest, no repository, no ONNX Runtime.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from stat import S_ISREG

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from service.model.wiring import ModelRefused, Port

# Operators of com.microsoft that ONNX Runtime's own optimiser and quantiser write into files.
FUSED_OPERATORS = frozenset(
    {
        "Attention",
        "BiasGelu",
        "DequantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gelu",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "NhwcMaxPool",
        "QAttention",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QuantizeLinear",
        "QuickGelu",
        "SkipLayerNormalization",
        "TransposeMatMul",
    }
)
STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


def parse(content: bytes, name: str) -> onnx.ModelProto:
    """The model in `content`, its external data left where it is; raises ModelRefused."""
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise ModelRefused(f"{name}: an ONNX file expected") from None
    if not model.graph.output:
        raise ModelRefused(f"{name}: an ONNX file with a graph expected")
    return model


def ports(model: onnx.ModelProto) -> tuple[list[Port], list[Port]]:
    """The graph's inputs (without those that are weights) and outputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_port(each) for each in model.graph.input if each.name not in weights]
    return inputs, [_port(each) for each in model.graph.output]


def _port(value: onnx.ValueInfoProto) -> Port:
    if not value.type.HasField("tensor_type"):
        return Port(value.name, None, None)
    tensor = value.type.tensor_type
    dims = None
    if tensor.HasField("shape"):
        dims = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return Port(value.name, _dtype(tensor.elem_type), dims)


def _dtype(elem_type: int) -> np.dtype | None:
    if elem_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING, onnx.TensorProto.BFLOAT16):
        return None
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except (KeyError, TypeError):
        return None
    return dtype if dtype.kind in "biuf" and dtype.isbuiltin == 1 else None


def subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all that its nodes hold."""
    yield graph
    for node in graph.node:
        for held in node_graphs(node):
            yield from subgraphs(held)


def node_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs directly in a node: the branches of an If, the body of a Loop."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, in subgraphs and in the model's own functions too."""
    for graph in subgraphs(model.graph):
        yield from graph.node
    for function in model.functions:
        for node in function.node:
            yield node
            for held in node_graphs(node):
                for graph in subgraphs(held):
                    yield from graph.node


def refuse_foreign_operators(model: onnx.ModelProto, name: str) -> None:
    """Raise ModelRefused for an operator that is neither standard nor ONNX Runtime's own nor made of such."""
    own = {(function.domain, function.name) for function in model.functions}
    for node in nodes(model):
        operator = (node.domain, node.op_type)
        standard = node.domain in STANDARD_DOMAINS and onnx.defs.has(
            node.op_type, "" if node.domain == "ai.onnx" else node.domain
        )
        fused = node.domain == "com.microsoft" and node.op_type in FUSED_OPERATORS
        if not (standard or fused or operator in own):
            raise ModelRefused(
                f"{name}: operator {node.domain or 'ai.onnx'}::{node.op_type} is not served, standard ones expected"
            )


def external_files(model: onnx.ModelProto, folder: Path, name: str) -> list[Path]:
    """The files beside the graph that its weights lie in, sorted; `folder` is the graph's real one.

    Raises ModelRefused where a path leaves the folder: absolute, with `..`, or through a symbolic link.
    """
    found = set()
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                found.add(_inside(folder, entry.value, name))
    return sorted(found)


def _inside(folder: Path, location: str, name: str) -> Path:
    refusal = ModelRefused(f"{name}: external data: a plain path inside the version's folder expected")
    parts = PurePosixPath(location).parts
    windows = PureWindowsPath(location)
    if not parts or ".." in parts or "\0" in location or windows.drive or windows.root or "\\" in location:
        raise refusal
    path = folder
    for part in parts:
        path /= part
        if path.is_symlink():
            raise refusal
    try:
        if not S_ISREG(path.stat().st_mode):
            raise refusal
    except OSError:
        raise ModelRefused(f"{name}: external data: the file {location!r} expected beside the graph") from None
    return path


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in subgraphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    yield from _attribute_tensors(nodes(model))
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from (attribute.t, *attribute.tensors)


def _attribute_tensors(every: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in every:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
