"""Numbers that a manifest gives: written in it, or in a file beside it. Nothing is rounded or cut in silence."""

from pathlib import Path

import numpy as np

from service.model.manifest import ManifestError
from service.values import TensorSpec


def exact(value: object, dtype: np.dtype, where: str) -> np.ndarray:
    """`value` in `dtype`; ManifestError, beginning with `where`, if that changes an integer or is no finite number."""
    try:
        array = np.array(value)
        if array.dtype.kind not in "biuf":
            raise ValueError
        cast = array.astype(dtype, casting="unsafe" if dtype.kind == "f" else "same_kind")
        same = np.isfinite(cast).all() if dtype.kind == "f" else np.array_equal(cast, array)
    except (ValueError, TypeError, OverflowError, RecursionError):
        same = False
    if not same:
        raise ManifestError(f"{where}: a value of dtype {dtype.name} expected")
    return cast


def from_file(spec: TensorSpec, folder: Path, name: str, where: str) -> bytes:
    """The bytes of one tensor from `name` in `folder`: .npy, or raw and little-endian. Raises ManifestError."""
    path = Path(name)
    expected = f"{where}: a file beside model.yaml with {spec.dtype.name}{list(spec.shape)}"
    if path.is_absolute() or ".." in path.parts or "\0" in name or (folder / path).is_symlink():
        raise ManifestError(f"{expected} expected, by a plain relative path")
    try:
        if path.suffix == ".npy":
            array = np.load(folder / path, allow_pickle=False)
            content = array.tobytes() if (array.dtype, array.shape) == (spec.dtype, spec.shape) else b""
        else:
            content = (folder / path).read_bytes()
    except (OSError, ValueError, EOFError):
        content = b""
    if len(content) != spec.nbytes:
        raise ManifestError(f"{expected} expected")
    return content
