"""The supervisor: several workers behind one port, started again when they die, and one admin port for all of them."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack, suppress

import aiohttp
import structlog
from prometheus_client import REGISTRY, generate_latest

from service import metrics
from service.admin import Admin
from service.port import hold
from service.settings import CannotStart, Settings
from service.totals import Totals
from service.worker import LATE_SECONDS, Worker

logger = structlog.get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a worker that died is started again: doubled each time, until one has lived for the longest pause."""
ASK_SECONDS = 2.0
"""A worker has so long to answer the supervisor."""
LOOK_SECONDS, MISSES = 10.0, 3
"""Between two looks at whether workers answer, and how often in a row one may not."""
OWN = 0
"""The supervisor's number among those who tell metrics; workers are numbered from 1."""


class Workers:
    """A replica of several processes. `async with` takes its ports; `run` serves until a signal comes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._exit = AsyncExitStack()
        self.port = 0
        """The gRPC port."""
        self.admin_port = 0
        self._workers: tuple[Worker, ...] = ()
        self._totals = Totals()
        self._asking = asyncio.Lock()
        """One after the other, or an older answer could come after a newer one."""
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "Workers":
        """Takes the gRPC port for the workers, and the admin port.

        Raises:
            CannotStart: somebody has one of them.
        """
        settings = self._settings
        async with AsyncExitStack() as stack:
            try:
                held = stack.enter_context(hold(settings.host, settings.port))
            except OSError:
                raise CannotStart(f"the gRPC port {settings.host}:{settings.port} cannot be bound") from None
            self.port = held.getsockname()[1]
            timeout = aiohttp.ClientTimeout(ASK_SECONDS)
            self._http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            admin = Admin(settings.admin_host, settings.admin_port, self._metrics, self._ready)
            self.admin_port = (await stack.enter_async_context(admin)).port
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT: the exit code, 0 if all workers drained.

        1. All workers start at once; one that cannot ends the others.
        2. The port file says that every worker accepts streams.
        3. A worker that dies is started again, one that hangs is killed first.
        4. Signals are passed on. A worker that does not end in time is killed.

        Raises:
            CannotStart: a worker cannot serve, in the words of the first that told.
        """
        settings = self._settings
        own = {"port": self.port, "port_file": None, "admin_host": "127.0.0.1", "admin_port": 0}
        each = settings.model_copy(update=own)
        self._workers = tuple(Worker(number, each) for number in range(1, settings.num_workers + 1))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        try:
            # 1
            try:
                await asyncio.gather(*(worker.start() for worker in self._workers))
            except CannotStart:
                if self._stop.is_set():  # one that did not serve yet was killed
                    return 0
                raise
            # 2
            if settings.port_file:
                try:
                    settings.port_file.write_text(f"{self.port}\n")
                except OSError:
                    raise CannotStart("CELLWIRE_PORT_FILE: the file cannot be written") from None
            logger.info("workers.started", port=self.port, admin_port=self.admin_port, workers=len(self._workers))
            async with asyncio.TaskGroup() as tasks:
                # 3
                kept = [tasks.create_task(self._keep(worker)) for worker in self._workers]
                looking = tasks.create_task(self._look_after())
                await self._stop.wait()
                # 4
                looking.cancel()
                await asyncio.wait(kept, timeout=settings.drain_seconds + LATE_SECONDS)
                for worker in self._workers:
                    worker.kill()
            return max(task.result() for task in kept)
        finally:
            for worker in self._workers:
                worker.kill()

    def stop(self) -> None:
        """As one signal: the first ends `run`, and with it the workers drain; the second one ends their grace."""
        self._stop.set()
        for worker in self._workers:
            worker.stop()

    async def _keep(self, worker: Worker) -> int:
        """Starts the worker again whenever it ends, until the group stops: 1 if its last life had to be cut off."""
        pause = FIRST_PAUSE
        while True:
            began, served = time.monotonic(), worker.admin_port > 0
            status = await worker.ended()
            self._totals.bury(worker.number)
            if self._stop.is_set():
                return int(served and status != 0)
            logger.error("worker.died", worker=worker.number, status=status)
            metrics.WORKER_RESTARTS.inc()
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()
            if self._stop.is_set():
                return 0
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                await worker.start()
            except CannotStart as error:
                logger.error("worker.cannot_start", worker=worker.number, why=str(error))

    async def _look_after(self) -> None:
        """Until cancelled: kills workers that do not answer. Probes from outside cannot: they reach any of them."""
        missed: dict[int, int] = {}
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            ports = [worker.admin_port for worker in self._workers]
            answers = await asyncio.gather(*(self._ask(port, "healthz") for port in ports))
            missed = {
                port: 0 if answer else missed.get(port, 0) + 1 for port, answer in zip(ports, answers, strict=True)
            }
            for worker in self._workers:
                if worker.admin_port and missed.get(worker.admin_port, 0) >= MISSES:
                    logger.error("worker.hangs", worker=worker.number)
                    worker.kill()

    async def _metrics(self) -> bytes:
        """The sums over all workers."""
        async with self._asking:
            ports = [worker.admin_port for worker in self._workers]
            texts = await asyncio.gather(*(self._ask(port, "metrics") for port in ports))
            told = {
                worker.number: text
                for worker, port, text in zip(self._workers, ports, texts, strict=True)
                # The counts of one that is gone by now are among those of the dead already.
                if text and worker.admin_port == port
            }
            own = REGISTRY.restricted_registry(["cellwire_worker_restarts_total"])
            return self._totals.text({OWN: generate_latest(own).decode(), **told})

    async def _ready(self) -> bool:
        """True if at least one worker is."""
        return any(await asyncio.gather(*(self._ask(worker.admin_port, "readyz") for worker in self._workers)))

    async def _ask(self, port: int, path: str) -> str | None:
        """What a worker's own admin port answers; None: nothing, or not in time, or nothing good."""
        if not port:
            return None
        try:
            async with self._http.get(f"http://127.0.0.1:{port}/{path}") as response:
                return await response.text() if response.ok else None
        except (aiohttp.ClientError, TimeoutError):
            return None
