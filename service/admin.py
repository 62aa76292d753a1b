"""The admin port: metrics for Prometheus, health for those who speak HTTP only."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from service.settings import CannotStart


class Admin:
    """A small HTTP server on a port of its own.

    `metrics` gives the text for Prometheus, `ready` whether sessions are served; each is asked at every request.
    """

    def __init__(
        self, host: str, port: int, metrics: Callable[[], Awaitable[bytes]], ready: Callable[[], Awaitable[bool]]
    ) -> None:
        self._host = host
        self._port = port
        self._metrics = metrics
        self._ready = ready

    @property
    def port(self) -> int:
        """The bound port."""
        return int(self._runner.addresses[0][1])

    async def __aenter__(self) -> "Admin":
        """Listens.

        Raises:
            CannotStart: the port cannot be bound.
        """
        routes = web.Application()
        routes.add_routes(
            [
                web.get("/metrics", self._exposition),
                web.get("/healthz", self._alive),
                web.get("/readyz", self._is_ready),
            ]
        )
        self._runner = web.AppRunner(routes, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise CannotStart(f"the admin port {self._host}:{self._port} cannot be bound") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _is_ready(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n") if await self._ready() else web.Response(status=503, text="not ready\n")
