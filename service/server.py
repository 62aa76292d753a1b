"""Assembly and life of one replica: start, serve, drain."""

import asyncio
import gc
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import generate_latest

from cellwire.v1 import (
    cell_service_pb2,
    cell_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from service import failpoints, metrics, tasks
from service.admin import Admin
from service.admission import Rate
from service.calls import Calls
from service.cells import Cells
from service.errors import Draining, StoreLost
from service.interceptor import Interceptor
from service.leases import Leases
from service.model.provider import Execution
from service.model.repository import Repository
from service.model_servicer import ModelServicer
from service.servicer import CellServicer
from service.session import Terms
from service.session_servicer import SessionServicer
from service.sessions import Sessions
from service.settings import CannotStart, Settings
from service.store.endpoint import Access
from service.store.form import topology_of
from service.store.store import Store
from service.tail import TailTerms

logger = structlog.get_logger(__name__)

CHECK_SECONDS = 1.0
"""Between two looks at the store."""
STOP_GRACE = 0.5
"""Seconds; one open health Watch would hold a longer grace for all of it."""
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT = 30.0, 10.0
"""A connection that is silent for so long is asked whether it lives, and has so long to answer."""
MIB = 1 << 20
YOUNG_OBJECTS = 50_000
"""Made between two looks for garbage in cycles, of which a timestep makes none. By default it is 700, while a batch
holds thousands that are gone once it is answered."""

SERVICES = tuple(
    file.services_by_name[name].full_name
    for file, name in (
        (cell_service_pb2.DESCRIPTOR, "CellService"),
        (session_service_pb2.DESCRIPTOR, "SessionService"),
        (model_service_pb2.DESCRIPTOR, "ModelService"),
    )
)


class Server:
    """One replica. `async with` starts and drains it; `run` serves until a signal comes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._exit = AsyncExitStack()
        self.port = 0
        """The bound gRPC port."""
        self.admin_port = 0
        self._ready = False
        self._store_seen: float | None = None
        """When the store was last seen in order; None: not yet, or its settings are wrong."""
        self._fault: str | None = None
        self._stop = asyncio.Event()
        self._failed = False
        self._hurry = asyncio.Event()
        """Set by a second signal: the drain waits no longer."""

    async def __aenter__(self) -> "Server":
        """Starts the replica.

        1. The store is tried; unreachable, the replica starts NOT_SERVING and keeps trying.
        2. Models are loaded, their wiring is proved, they are warmed at each batch size.
        3. The batchers run.
        4. The admin port, then the gRPC port.
        5. Health says SERVING once the store is there.
        """
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._exit = stack.pop_all()
        return self

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        if settings.failpoints:
            logger.warning("server.failpoints", failpoints=settings.failpoints)
        failpoints.arm(settings.failpoints)
        # 1
        try:
            topology = topology_of(settings.store_url.get_secret_value(), _access(settings))
        except (ValueError, TypeError):  # its text may hold the password
            raise CannotStart("CELLWIRE_STORE_URL: not the URL of a store") from None
        store = Store(
            topology,
            settings.tenant,
            settings.commit_deadline,
            settings.ephemeral_store,
            settings.replicas_short == "degrade",
        )
        self.store = await stack.enter_async_context(store)
        await self.store.check()
        # 2
        for path in settings.models:
            if not path.is_dir():
                raise CannotStart(f"CELLWIRE_MODELS: {path} is not a folder")
        names = [name.strip() for name in settings.load.split(",") if name.strip()]
        rate = Rate(settings.max_steps_per_second)
        repository = Repository(settings.repositories, Execution.of(settings))
        cells = Cells(repository, names, settings.step_target, rate)
        self.cells = await stack.enter_async_context(cells)
        missing = set(names) - set(self.cells.names())
        if missing:
            raise CannotStart(f"models not found or refused: {', '.join(sorted(missing))}")
        # 3
        terms = Terms(
            ring=settings.ring,
            window=settings.window,
            max_timesteps=settings.max_timesteps,
            max_message_bytes=settings.max_message_bytes,
            idle_ttl=round(settings.idle_ttl * 1000),
            tombstone=round(settings.tombstone * 1000),
            lease=round(settings.lease * 1000),
            replicas=settings.replicas,
            tail=TailTerms(settings.write_behind_steps, settings.write_behind_seconds, settings.max_undurable),
        )
        self.sessions = await stack.enter_async_context(
            Sessions(self.store, self.cells, terms, settings.max_commits, settings.max_commit_bytes)
        )
        self.store.on_replaced = self._store_replaced
        calls = Calls(self.sessions, lambda: self.store.condition.store_id, settings.unary_cache)
        # 4
        admin = Admin(settings.admin_host, settings.admin_port, self._metrics, self._is_ready)
        await stack.enter_async_context(admin)
        self.admin_port = admin.port
        self.servicer = CellServicer(self.sessions, calls, settings.max_streams, settings.max_sessions)
        self._interceptor = Interceptor(settings.write_timeout)
        self._health = health.aio.HealthServicer()
        self._grpc = self._grpc_server(calls)
        try:
            self.port = self._grpc.add_insecure_port(f"{settings.host}:{settings.port}")
        except RuntimeError:
            raise CannotStart(f"the gRPC port {settings.host}:{settings.port} cannot be bound") from None
        # 5, before the port answers: the library's health says SERVING until it is told otherwise
        await self._tell_health("liveness", True)
        await self._tell_readiness()
        await self._grpc.start()
        stack.push_async_exit(self._drain)
        leases = Leases(self.sessions, self.store, settings.heartbeat)
        for work in (leases.run, self._watch_store, self._interceptor.watch):
            task = asyncio.create_task(self._keep_running(work))
            stack.push_async_callback(tasks.end, task)
        if settings.port_file:
            try:
                settings.port_file.write_text(f"{self.port}\n")
            except OSError:
                raise CannotStart("CELLWIRE_PORT_FILE: the file cannot be written") from None
        logger.info(
            "server.started", port=self.port, admin_port=self.admin_port, models=self.cells.names(), ready=self._ready
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.__aexit__(kind, error, trace)

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT; a second one ends the grace of the drain.

        Raises:
            RuntimeError: a task of the replica's own failed; the replica is to be drained.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        gc.collect()
        gc.freeze()  # what is loaded stays, and need not be looked through each time
        gc.set_threshold(YOUNG_OBJECTS)
        await self._stop.wait()
        if self._failed:
            raise RuntimeError("a task of the replica failed")

    def stop(self) -> None:
        """As one signal: the first ends `run`, and with it begins the drain; the second one ends its grace."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def _metrics(self) -> bytes:
        return generate_latest()

    async def _is_ready(self) -> bool:
        return self._ready

    async def _keep_running(self, work: Callable[[], Awaitable[None]]) -> None:
        """Readiness or leases would freeze unseen if one of these died: it takes the replica with it."""
        try:
            await work()
        except Exception:
            logger.exception("server.task_failed")
            self._failed = True
            self._stop.set()

    async def _drain(self, *_: object) -> None:
        """Leaves without losing a timestep.

        1. Health says NOT_SERVING; new opens are refused.
        2. Each stream finishes and commits the message in hand, gets a notice, and ends.
        3. Wait on our own count of what is live, and until all sessions are released, within the grace.
        4. The gRPC server stops; what that cut off is released, if the store answers at once. The rest of the exit
           stack follows: admin port, batchers, models, store.
        """
        # 1
        metrics.DRAINING.set(1)
        logger.info("server.draining", streams=len(self.servicer.streams))
        self.sessions.draining = True
        await self._tell_readiness()
        failpoints.hit("in_drain")
        # 2
        for stream in tuple(self.servicer.streams):
            stream.end(Draining("this replica is going", retry_after=0.0))
        # 3
        await self._within(self._settings.drain_seconds, self._settled())
        # 4
        await self._grpc.stop(0 if self.servicer.live else STOP_GRACE)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_GRACE):  # after a second signal, too
                await self._settled()
        metrics.DRAINING.set(0)
        logger.info("server.stopped", cut_off=self.servicer.live)

    async def _settled(self) -> None:
        await self.servicer.emptied()
        await self.sessions.settled()

    async def _within(self, seconds: float, done: Coroutine[Any, Any, None]) -> None:
        """Waits for so long at most, and no longer than until a second signal."""
        waits = [asyncio.create_task(done), asyncio.create_task(self._hurry.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _grpc_server(self, calls: Calls) -> grpc.aio.Server:
        settings = self._settings
        limit = settings.max_message_bytes + 64 * 1024
        server = grpc.aio.server(
            interceptors=(self._interceptor,),
            options=(
                ("grpc.so_reuseport", int(settings.num_workers > 1)),
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", 16 * MIB),
                ("grpc.max_concurrent_streams", 2048),
                ("grpc.max_metadata_size", 8 * 1024),
                ("grpc.absolute_max_metadata_size", 16 * 1024),
                # A server's default of two hours leaves clients that vanished half open.
                ("grpc.keepalive_time_ms", round(KEEPALIVE_SECONDS * 1000)),
                ("grpc.keepalive_timeout_ms", round(KEEPALIVE_TIMEOUT * 1000)),
                # By itself the timeout above does nothing: the ping's own, of a minute, would be waited for.
                ("grpc.http2.ping_timeout_ms", round(KEEPALIVE_TIMEOUT * 1000)),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.server_handshake_timeout_ms", 10_000),
            ),
        )
        cell_service_pb2_grpc.add_CellServiceServicer_to_server(self.servicer, server)
        sessions = SessionServicer(self.store, calls, settings.tombstone, settings.replicas)
        session_service_pb2_grpc.add_SessionServiceServicer_to_server(sessions, server)
        models = ModelServicer(self.cells, settings.idle_ttl)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server

    async def _watch_store(self) -> None:
        """Looks at the store each second: readiness falls when it has been gone for longer than a failover takes,
        and at once when it answers and may lose sessions."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.store.check()
            await self._tell_readiness()

    def _store_replaced(self) -> None:
        metrics.STORE_LOSSES.inc()
        logger.error("store.replaced")
        self.sessions.lose_all(StoreLost("the store is another one"))

    async def _tell_readiness(self) -> None:
        fault = self.store.condition.fault
        now = time.monotonic()
        metrics.STORE_UP.set(0 if fault else 1)
        if not fault:
            self._store_seen = now
        elif self.store.condition.reachable:
            self._store_seen = None
        seen_lately = self._store_seen is not None and now - self._store_seen <= self._settings.store_grace
        ready = seen_lately and not self.sessions.draining
        if fault and fault != self._fault:
            logger.warning("store.fault", fault=fault)
        self._fault, self._ready = fault, ready
        for name in ("", *SERVICES, *self.cells.names()):
            await self._tell_health(name, ready)

    async def _tell_health(self, name: str, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(name, status)


def _access(settings: Settings) -> Access:
    return Access(
        settings.store_timeout,
        settings.store_username,
        settings.store_password.get_secret_value(),
        settings.store_password_file,
        settings.store_ca,
        settings.store_cert,
        settings.store_key,
    )
