"""Timesteps out of WAV, CSV, NDJSON and raw PCM, in the shapes that a model expects."""

import asyncio
import csv
import json
import wave
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, Literal, TextIO

import numpy as np

from cellwire.replies import Model
from cellwire.tensors import Array, Frame, TensorSpec

Format = Literal["wav", "pcm", "csv", "ndjson"]
FORMATS: dict[str, Format] = {".wav": "wav", ".pcm": "pcm", ".raw": "pcm", ".csv": "csv", ".ndjson": "ndjson"}

_SHORTEST_FRAME = 64
"""Samples; a shorter input is not made for audio."""


class BadSource(Exception):
    """A file that cannot be fed to the model; the message is one line."""


@dataclass(frozen=True, slots=True)
class Source:
    """Frames that may make their reader wait."""

    frames: Iterator[Frame]
    total: int | None
    """How many, where that is known beforehand."""
    rate: float | None
    """Timesteps a second, where the source tells."""
    sample_rate: int | None = None
    """Of audio, samples a second."""


def open_source(
    stream: IO[bytes], text: TextIO, form: Format, model: Model, columns: list[str], sample_rate: int
) -> Source:
    """The frames of a stream, which is given as bytes and as text. Raises BadSource."""
    if form == "ndjson":
        return Source(_lines(text, model.inputs), None, None)
    if len(model.inputs) != 1:
        raise BadSource(f"{model.name} has {len(model.inputs)} inputs: give it NDJSON, one object a line")
    spec = model.inputs[0]
    if form == "csv":
        return Source(_rows(text, spec, columns), None, None)
    length = prod(spec.shape)
    if spec.dtype.kind != "f" or len(spec.shape) != 1 or length < _SHORTEST_FRAME:
        takes = f"{spec.dtype.name}{list(spec.shape)}"
        raise BadSource(f"{model.name} takes no audio: its input {spec.name} is {takes}, not a frame of samples")
    if form == "pcm":
        frames = _frames(iter(lambda: stream.read(2 * length), b""), spec)
        return Source(frames, None, sample_rate / length, sample_rate)
    return _wav(stream, spec)


def read_wav(path: Path, spec: TensorSpec) -> Array:
    """All frames of a WAV file: an array of the input's dtype, its first axis the timesteps. Raises BadSource."""
    with path.open("rb") as stream:
        return np.stack([np.asarray(frame) for frame in _wav(stream, spec).frames])


def _wav(stream: IO[bytes], spec: TensorSpec) -> Source:
    try:
        audio = wave.open(stream, "rb")  # noqa: SIM115  read until the source ends
    except (wave.Error, EOFError) as error:
        raise BadSource(f"not a WAV file: {error}") from None
    if (audio.getnchannels(), audio.getsampwidth()) != (1, 2):
        raise BadSource(
            f"mono 16-bit WAV expected, not {audio.getnchannels()} channels of {audio.getsampwidth()} bytes"
        )
    length = prod(spec.shape)
    total = -(-audio.getnframes() // length)
    chunks = iter(lambda: audio.readframes(length), b"")
    rate = audio.getframerate()
    return Source(_frames(chunks, spec), total, rate / length, rate)


def _frames(chunks: Iterable[bytes], spec: TensorSpec) -> Iterator[Array]:
    """16-bit samples as numbers in [-1, 1); the last part frame is padded with zeros."""
    for chunk in chunks:
        samples = np.frombuffer(chunk[: len(chunk) // 2 * 2], "<i2")
        frame = np.zeros(prod(spec.shape), spec.dtype)
        frame[: len(samples)] = samples / spec.dtype.type(32768)
        yield frame.reshape(spec.shape)


def _rows(text: TextIO, spec: TensorSpec, columns: list[str]) -> Iterator[Array]:
    """One timestep a row; a first row that is no numbers is a header, by whose names columns can be chosen."""
    reader = csv.reader(text)
    chosen: list[int] | None = None
    for row in reader:
        if not row:
            continue
        if chosen is None:
            header = None if _numeric(row[-1]) else row
            chosen = _chosen(columns, header, len(row))
            if len(chosen) != prod(spec.shape):
                raise BadSource(f"{spec.name} takes {prod(spec.shape)} numbers a timestep, not {len(chosen)} columns")
            if header:
                continue
        try:
            numbers = np.array([float(row[column]) for column in chosen])
        except (ValueError, IndexError):
            raise BadSource(f"line {reader.line_num} is not {len(chosen)} numbers") from None
        yield _array(numbers.reshape(spec.shape), spec, reader.line_num)


def _chosen(columns: list[str], header: list[str] | None, width: int) -> list[int]:
    """Column places from names of the header or numbers from 1; all of them if none is asked for."""
    places = []
    for column in columns:
        if header and column in header:
            places.append(header.index(column))
        elif column.isdigit() and 1 <= int(column) <= width:
            places.append(int(column) - 1)
        else:
            raise BadSource(f"no column {column}; there are {', '.join(header) if header else width}")
    return places or list(range(width))


def _lines(text: TextIO, specs: Sequence[TensorSpec]) -> Iterator[Frame]:
    """One timestep a line: a list, or an object input name -> list."""
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            frame: Any = json.loads(line)
        except ValueError:
            raise BadSource(f"line {number} is not JSON") from None
        if isinstance(frame, list | int | float) and len(specs) == 1:
            frame = {specs[0].name: frame}
        names = [spec.name for spec in specs]
        if not isinstance(frame, dict):
            raise BadSource(f"line {number} is not {'a list or ' if len(specs) == 1 else ''}an object of lists")
        if sorted(frame) != sorted(names):
            raise BadSource(f"line {number} has the inputs {', '.join(frame) or 'none'}, not {', '.join(names)}")
        yield {spec.name: _array(frame[spec.name], spec, number) for spec in specs}


def _array(value: Any, spec: TensorSpec, line: int) -> Array:
    """A value as the input's array, or BadSource with the number of its line."""
    try:
        with np.errstate(over="raise", invalid="raise"):
            array = np.asarray(value, spec.dtype)
    except (ValueError, TypeError, ArithmeticError):
        array = None
    if array is None or array.shape != spec.shape or not np.isfinite(array).all():
        takes = f"{spec.dtype.name}{list(spec.shape)}"
        raise BadSource(f"line {line}: {spec.name} takes {takes}, finite numbers") from None
    return array


def _numeric(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


async def paced(frames: AsyncGenerator[Frame, None], rate: float | None) -> AsyncGenerator[Frame, None]:
    """The frames at `rate` timesteps a second, none early; as fast as they come without a rate."""
    clock = asyncio.get_running_loop().time
    began, count = clock(), 0
    async for frame in frames:
        if rate:
            await asyncio.sleep(max(0.0, began + count / rate - clock()))
            count += 1
        yield frame
