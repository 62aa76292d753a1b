"""Models on disk: `<root>/<model>/model.yaml` and `<root>/<model>/<version>/model.onnx`.

Knows the folders and what a model's digest covers. Must not know what a timestep is. Everything is read anew at each
call: who serves a model keeps what `open` gave.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnxruntime

from service.errors import ModelUnknown
from service.model import graph
from service.model.contract import wire
from service.model.manifest import PROVIDERS, Cuda, Manifest, parse
from service.model.provider import Execution, open_graph
from service.model.wiring import ModelRefused
from service.values import DIGEST_BYTES, ModelSpec, TensorSpec

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
GRAPH_FILE = "model.onnx"
MANIFEST_FILE = "model.yaml"


@dataclass(frozen=True, slots=True)
class _Files:
    """One version as read and checked: what was checked is what runs."""

    spec: ModelSpec
    model: onnx.ModelProto
    content: bytes
    path: Path
    external: list[Path]
    cuda: Cuda


class Repository:
    """The models under some roots; where two hold the same name, the first one's is served."""

    def __init__(self, roots: Sequence[Path], execution: Execution = Execution()) -> None:  # noqa: B008 (frozen)
        self._roots = tuple(roots)
        self._execution = execution

    def names(self) -> tuple[str, ...]:
        """The models that have at least one version, sorted."""
        found = {folder.name for root in self._roots for folder in _folders(root)}
        return tuple(sorted(name for name in found if self._folder(name) is not None))

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions of a model, oldest to newest: numbers in them count as numbers. Raises ModelUnknown."""
        folder = self._folder(name)
        if folder is None:
            raise _unknown(name)
        return _versions(folder)

    def spec(self, name: str, version: str = "") -> ModelSpec:
        """The contract of a version, the newest if none is named. Raises ModelUnknown, ModelRefused."""
        return self._read(name, version).spec

    def graph(self, name: str, version: str = "") -> onnx.ModelProto:
        """The graph of a version, without its external data. Raises ModelUnknown, ModelRefused."""
        return self._read(name, version).model

    def open(self, name: str, version: str = "") -> tuple[ModelSpec, onnxruntime.InferenceSession]:
        """The contract of a version and a session of ONNX Runtime for it. Raises ModelUnknown, ModelRefused.

        The contract names the provider that runs it, which after a fallback is not the one asked for.
        """
        files = self._read(name, version)
        # with external data ONNX Runtime must know the folder; without, it gets the very bytes that were checked
        source: str | bytes = str(files.path) if files.external else files.content
        label = f"{name}/{files.spec.version}"
        session = open_graph(source, label, files.spec.provider, files.cuda, self._execution)
        return replace(files.spec, provider=session.get_providers()[0]), session

    def _read(self, name: str, version: str) -> _Files:
        versions = self.versions(name)
        folder = self._folder(name)
        version = version or versions[-1]
        if folder is None or version not in versions:
            raise _unknown(f"{name}/{version}")
        # the real path: a ConfigMap reaches its files through symbolic links, and weights lie beside the real file
        path = (folder / version / GRAPH_FILE).resolve()
        label = f"{name}/{version}"
        try:
            content = path.read_bytes()
            manifest_path = folder / MANIFEST_FILE
            manifest = parse(manifest_path.read_bytes(), name) if manifest_path.exists() else Manifest()
        except OSError as error:
            raise ModelRefused(f"{label}: a readable file expected: {error.strerror}") from None
        model = graph.parse(content, label)
        graph.refuse_foreign_operators(model, label)
        external = graph.external_files(model, path.parent, label)
        inputs, outputs = graph.ports(model)
        spec = wire(manifest, model=name, version=version, folder=folder, inputs=inputs, outputs=outputs)
        provider = PROVIDERS[self._execution.provider] if self._execution.provider else spec.provider
        return _Files(
            spec=replace(spec, digest=_digest(spec, content, external), provider=provider),
            model=model,
            content=content,
            path=path,
            external=external,
            cuda=manifest.cuda,
        )

    def _folder(self, name: str) -> Path | None:
        if not _is_name(name):
            return None
        for root in self._roots:
            if _versions(root / name):
                return root / name
        return None


def _digest(spec: ModelSpec, content: bytes, external: Sequence[Path]) -> bytes:
    """BLAKE2b-128 over the graph, its external files and the state contract."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in (_contract(spec), content):
        digest.update(len(part).to_bytes(8, "little") + part)
    for path in external:
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.digest()


def _contract(spec: ModelSpec) -> bytes:
    """What stored state and stored replies mean, in one canonical text; limits and lifetimes are not in it."""

    def tensors(specs: Sequence[TensorSpec]) -> list[list[object]]:
        return [[each.name, each.dtype.str, list(each.shape)] for each in specs]

    return json.dumps(
        {
            "inputs": [[*tensors([each])[0], each.carry] for each in spec.inputs],
            "constants": tensors(spec.constants),
            "fixed": [
                [each.name, each.value.dtype.str, list(each.value.shape), each.value.tobytes().hex()]
                for each in spec.fixed
            ],
            "outputs": tensors((*spec.outputs, *spec.gates)),
            "state": [
                [*tensors([each])[0], each.output, each.carried_input, each.batch_axis, each.initial.hex()]
                for each in spec.state
            ],
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()


def _is_name(name: str) -> bool:
    # a leading dot is never a model's: ConfigMaps keep their `..data` beside the files
    return NAME.fullmatch(name) is not None and not name.startswith(".")


def _folders(root: Path) -> list[Path]:
    try:
        return [each for each in root.iterdir() if _is_name(each.name) and each.is_dir()]
    except OSError:
        return []


def _versions(folder: Path) -> tuple[str, ...]:
    names = [each.name for each in _folders(folder) if (each / GRAPH_FILE).is_file()]
    return tuple(sorted(names, key=_numeric))


def _numeric(version: str) -> list[tuple[int, int | str]]:
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return [(1, int(part)) if part.isdigit() else (0, part) for part in parts]


def _unknown(name: str) -> ModelUnknown:
    return ModelUnknown("no such model", resource=("cellwire.v1.Model", name[:128]))
