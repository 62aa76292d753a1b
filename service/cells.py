"""The loaded models of this replica, each with the batcher of its cell.

Knows how models are loaded and where a batch runs; knows no session.
"""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from service import metrics
from service.admission import Admission, Rate
from service.batcher import Batcher
from service.errors import CellwireError, ModelNotHere, ModelUnknown, NonFinite
from service.model.cell import Cell
from service.model.proof import load
from service.model.repository import Repository
from service.model.wiring import ModelRefused
from service.tensors import MAX_NAME, OutputsEncoder
from service.values import CellResult, CellWork, ModelSpec, shape_signature

logger = structlog.get_logger(__name__)

INLINE_SECONDS = 0.0005
"""A run that takes less is not worth a thread: handing it over and taking the GIL back costs as much."""


class LoadedCell:
    """One version of a model, proved and warm, with its batcher."""

    def __init__(self, cell: Cell, step_target: float, rate: Rate) -> None:
        self.spec: ModelSpec = cell.spec
        self.signature = shape_signature(cell.spec.inputs)
        self._cell = cell
        self._encoders: dict[tuple[str, ...], OutputsEncoder] = {}
        self._batch_size = metrics.BATCH_SIZE.labels(cell.spec.name)
        self._queue_seconds = metrics.QUEUE_SECONDS.labels(cell.spec.name)
        self._non_finite = metrics.NON_FINITE.labels(cell.spec.name)
        self.batcher: Batcher[CellWork, CellResult] = Batcher(self._run, cell.spec.max_batch)
        self.admission = Admission(step_target, cell.spec.max_batch, cell.seconds(cell.spec.max_batch), rate)

    async def __aenter__(self) -> "LoadedCell":
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"cell-{self.spec.name}")
        await self.batcher.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.batcher.__aexit__()
        self._thread.shutdown()

    def encoder(self, outputs: tuple[str, ...]) -> OutputsEncoder:
        """What encodes this selection of outputs."""
        encoder = self._encoders.get(outputs)
        if encoder is None:
            encoder = self._encoders[outputs] = OutputsEncoder(self.spec, outputs)
        return encoder

    async def _run(self, items: Sequence[CellWork]) -> list[CellResult | CellwireError]:
        """One batch, on the event loop when it is short, in this model's own thread when it is not."""
        self._batch_size.observe(len(items))
        self._queue_seconds.observe(self.batcher.oldest_wait)
        # With a time axis there is one call for each number of timesteps, and it takes so many times longer.
        calls = 1 if self.spec.time_axis is None else sum({len(item.rows) for item in items})
        if self._cell.seconds(len(items)) * calls < INLINE_SECONDS:
            results = self._cell.run(items)
        else:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._cell.run, items)
        for result in results:
            if isinstance(result, NonFinite):
                self._non_finite.inc()
        return results


class Cells:
    """The models of this replica by name and version. One that does not pass its proof is not served."""

    def __init__(self, repository: Repository, names: Sequence[str], step_target: float, rate: Rate) -> None:
        self._repository = repository
        self._names = names
        self._step_target = step_target
        self._rate = rate
        self._loaded: dict[tuple[str, str], LoadedCell] = {}
        self._loading = asyncio.Lock()
        self.served: tuple[str, ...] = ()
        """Keys of all versions that this replica can serve, loaded or not; one that fails its proof leaves."""

    async def __aenter__(self) -> "Cells":
        for name in self._names or self._repository.names():
            try:
                versions = self._repository.versions(name)
                await self._load(name, versions[-1])
            except (ModelRefused, ModelUnknown) as error:
                logger.error("model.refused", model=name, why=str(error))
            else:
                self.served += tuple(self._keys(name, versions))
        return self

    def _keys(self, name: str, versions: Sequence[str]) -> Iterator[str]:
        """Of the versions whose contract can be read; the older ones are proved when they are asked for."""
        for version in versions:
            try:
                yield self._repository.spec(name, version).key
            except ModelRefused as error:
                logger.error("model.refused", model=name, version=version, why=str(error))

    async def __aexit__(self, *_: object) -> None:
        for cell in self._loaded.values():
            await cell.__aexit__()

    def names(self) -> list[str]:
        """Of the models that are served."""
        return sorted({key.partition("/")[0] for key in self.served})

    def versions(self, name: str) -> tuple[str, ...]:
        """Of one of them, oldest first."""
        return tuple(key.split("/")[1] for key in self.served if key.startswith(f"{name}/"))

    async def get(self, name: str, version: str = "") -> LoadedCell:
        """The version asked for, or the newest, loaded if it is not yet.

        Raises:
            ModelUnknown: there is none, or it did not pass its proof.
        """
        versions = self.versions(name)
        if not versions or (version and version not in versions):
            raise _unknown(name, version)
        wanted = version or versions[-1]
        try:
            return self._loaded.get((name, wanted)) or await self._load(name, wanted)
        except ModelRefused:
            raise _unknown(name, version) from None

    def loaded(self, name: str, version: str = "") -> LoadedCell | None:
        """As `get`, if it is loaded."""
        versions = self.versions(name)
        return self._loaded.get((name, version or versions[-1])) if versions else None

    async def of_session(self, key: str) -> LoadedCell:
        """The very version that a stored session belongs to.

        Raises:
            ModelNotHere: it is not on this replica.
        """
        name, version, _ = key.split("/")
        try:
            cell = await self.get(name, version)
        except ModelUnknown:
            raise ModelNotHere(f"model {name}, version {version} cannot be served here", retry_after=1.0) from None
        return cell

    async def _load(self, name: str, version: str) -> LoadedCell:
        async with self._loading:
            if (name, version) not in self._loaded:
                try:
                    cell = await asyncio.to_thread(load, self._repository, name, version)
                except ModelRefused:
                    metrics.MODEL_LOADS.labels(name, "refused").inc()
                    self.served = tuple(key for key in self.served if not key.startswith(f"{name}/{version}/"))
                    raise
                metrics.MODEL_LOADS.labels(name, "served").inc()
                logger.info("model.loaded", model=name, version=version, max_batch=cell.spec.max_batch)
                self._loaded[name, version] = await LoadedCell(cell, self._step_target, self._rate).__aenter__()
                admissions = [cell.admission for (other, _), cell in self._loaded.items() if other == name]
                metrics.IN_FLIGHT.labels(name).set_function(lambda: sum(each.in_flight for each in admissions))
                metrics.IN_FLIGHT_LIMIT.labels(name).set_function(lambda: sum(each.limit for each in admissions))
        return self._loaded[name, version]


def _unknown(name: str, version: str) -> ModelUnknown:
    asked = f"{name[:MAX_NAME]}/{version[:MAX_NAME]}" if version else name[:MAX_NAME]
    return ModelUnknown("no such model", resource=("cellwire.v1.Model", asked))
