"""The manifest: the keys of `model.yaml`, their types, and safe YAML.

Knows nothing of graphs: what the keys mean for one is contract.py. Any text gives a Manifest or a ManifestError.
"""

from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.model.wiring import ModelRefused

MAX_MANIFEST_BYTES = 1 << 20
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
TRITON_DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}


class ManifestError(ModelRefused):
    """A manifest that cannot be served: one line with the model, the field and what was expected."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Dimension = Annotated[int, Field(ge=1, le=2**31)]
Axis = Annotated[int, Field(ge=-8, le=7)]
Number = bool | int | float


class InitialFile(_Part):
    """An initial value from a file beside the manifest: .npy, or the raw little-endian bytes."""

    file: str


Initial = Literal["zeros"] | Number | InitialFile


class Carry(_Part):
    """A carry window: the last `length` values of an input are put before the next ones."""

    axis: Literal[-1] = -1
    length: Annotated[int, Field(ge=1, le=2**24)]
    initial: Initial = "zeros"


class Tensor(_Part):
    """What may be written of any tensor; `shape` has neither batch nor time axis."""

    name: str
    dtype: str | None = None
    shape: list[Dimension] | None = None
    batch_axis: Axis | None = None


class Constant(Tensor):
    """An input that the client gives once, at open."""

    low: int | None = None
    high: int | None = None


class Input(Constant):
    """An input that comes with each message."""

    carry: Carry | None = None


class State(_Part):
    """A state pair; without `output` the name rule finds it."""

    input: str
    output: str | None = None
    dtype: str | None = None
    shape: list[Dimension] | None = None
    batch_axis: Axis | None = None
    initial: Initial = "zeros"


class Cuda(_Part):
    """What a model allows for speed on CUDA, at the price of numbers that are further from the CPU's."""

    tf32: bool = False
    conv_search: Literal["default", "heuristic", "exhaustive"] = "heuristic"


class Manifest(_Part):
    """The keys of `model.yaml`. All may be left out where the graph tells enough."""

    description: str = ""
    licence: str = ""
    source: str = ""
    inputs: list[Input] | None = None
    constants: list[Constant] = []
    fixed: dict[str, Number | list[object]] = {}
    state: list[State] = []
    outputs: list[Tensor] | None = None
    gates: list[Tensor] = []
    time_axis: Axis | None = None
    max_batch: Annotated[int, Field(ge=1, le=4096)] | None = None
    write_mode: Literal["write_through", "write_behind"] = "write_through"
    idle_ttl: Annotated[float, Field(gt=0, le=30 * 86400, allow_inf_nan=False)] | None = None
    provider: Literal["cpu", "cuda"] = "cpu"
    cuda: Cuda = Cuda()


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (they can unfold without end) and without a key written twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} is written twice")
        return super().construct_mapping(node, deep=deep)


def parse(text: bytes, model: str) -> Manifest:
    """The manifest in `text`, its keys and types checked; raises ManifestError only."""
    if len(text) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{model}: model.yaml: at most {MAX_MANIFEST_BYTES} bytes expected")
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader, made stricter)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ManifestError(f"{model}: model.yaml is not the YAML expected: {reason}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ManifestError(f"{model}: model.yaml: a mapping of keys expected")
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise ManifestError(f"{model}: {_first_line(error)}") from None
    except RecursionError:
        raise ManifestError(f"{model}: model.yaml is nested too deeply") from None


def _first_line(error: ValidationError) -> str:
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    return f"{where}: {first['msg']}"
