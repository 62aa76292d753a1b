"""What every RPC passes, the library's own services too: unreadable messages, errors, metrics.

grpc.aio would send an exception's text to the client, and the library's services that of a parser. Here a
CellwireError becomes its google.rpc.Status, and anything else INTERNAL with fixed text and an id that the log has.
"""

import asyncio
import inspect
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.rpc.status_pb2 import Status

from service import metrics
from service.codec import encode_status, readable, reader
from service.errors import CellwireError, SlowConsumer, internal_error

logger = structlog.get_logger(__name__)

READ_LATER = frozenset(("/cellwire.v1.CellService/Stream",))
"""Methods that take the bytes of their messages, and parse them where many are at hand."""

Context = Any
"""grpc.aio.ServicerContext, which is generic in types that nothing here needs."""


@dataclass(frozen=True, slots=True)
class _RpcStatus(grpc.Status):  # type: ignore[misc]
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def rpc_status(error: CellwireError) -> _RpcStatus:
    """What ends an RPC: the status code, the text, and all of google.rpc.Status in the trailing metadata."""
    status: Status = encode_status(error)
    return _RpcStatus(error.code, error.message, (("grpc-status-details-bin", status.SerializeToString()),))


class _Answering:
    """One streaming RPC that is being answered."""

    __slots__ = ("context", "sending_since", "task")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.task = asyncio.current_task()
        self.sending_since = math.inf
        """When the message that its client has not yet taken was sent; monotonic."""

    async def cut(self) -> None:
        """Ends the RPC of a client that does not read.

        Its status stands behind the replies that were not read, and nobody waits until it is taken: the handler is
        cancelled where the library waits for its last message to go out, and leaves as if its client had.
        """
        self.sending_since = math.inf
        logger.warning("rpc.slow_consumer", peer=self.context.peer())
        if not self.context.done():
            with suppress(TimeoutError, grpc.aio.BaseError):
                async with asyncio.timeout(0):
                    await _abort(self.context, SlowConsumer("replies were not read for too long; resume"))
        if self.task:
            self.task.cancel()


class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps each handler once."""

    def __init__(self, write_timeout: float) -> None:
        self._guarded: dict[str, grpc.RpcMethodHandler] = {}
        self._write_timeout = write_timeout
        self._answering: set[_Answering] = set()

    async def watch(self) -> None:
        """Until cancelled: ends streams whose client has left a reply unread for the write timeout."""
        while True:
            await asyncio.sleep(min(1.0, self._write_timeout / 4))
            earliest = time.monotonic() - self._write_timeout
            for answering in [each for each in self._answering if each.sending_since < earliest]:
                await answering.cut()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The guarded handler of the method; None for an unknown one, which the library answers."""
        method = handler_call_details.method
        guarded = self._guarded.get(method)
        if guarded is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            guarded = self._guarded[method] = _guard(handler, method, self._answering)
        return guarded


def _guard(handler: Any, method: str, live: set[_Answering]) -> grpc.RpcMethodHandler:
    _, service, name = method.split("/")
    kind = f"{'client' if handler.request_streaming else ''}{'server' if handler.response_streaming else ''}"
    labels = (
        {"": "unary", "client": "client_stream", "server": "server_stream"}.get(kind, "bidi_stream"),
        service,
        name,
    )
    received, sent = metrics.MESSAGES.received, metrics.MESSAGES.sent
    read = bytes if method in READ_LATER else reader(handler.request_deserializer)

    def deserialise(raw: bytes) -> object:
        received[labels] += 1
        return read(raw)

    def serialise(message: Any) -> bytes:
        sent[labels] += 1
        return message if type(message) is bytes else bytes(message.SerializeToString())

    if handler.response_streaming:
        inner = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            answering = _Answering(context)
            live.add(answering)
            try:
                with _observed(labels, context):
                    if not handler.request_streaming:
                        readable(request)
                    elif not service.startswith("cellwire."):
                        request = _readable_only(request)
                    responses = inner(request, context)
                    if inspect.iscoroutine(responses):  # the library's Watch, which writes by itself
                        await responses
                        return
                    async with aclosing(responses):
                        async for response in responses:
                            answering.sending_since = time.monotonic()
                            yield response
                            answering.sending_since = math.inf
            except CellwireError as error:
                answering.sending_since = time.monotonic()
                await _abort(context, error)
            except Exception as error:
                if isinstance(error, grpc.aio.AbortError):
                    raise
                answering.sending_since = time.monotonic()
                await _abort(context, internal_error(error, method))
            finally:
                live.discard(answering)

        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(stream, deserialise, serialise)

    inner = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def unary(request: Any, context: Context) -> Any:
        try:
            with _observed(labels, context):
                if not handler.request_streaming:
                    readable(request)
                return await inner(request, context)
        except CellwireError as error:
            await _abort(context, error)
        except Exception as error:
            if isinstance(error, grpc.aio.AbortError):
                raise
            await _abort(context, internal_error(error, method))

    make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
    return make(unary, deserialise, serialise)


async def _readable_only(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The library's own services know nothing of UNREADABLE."""
    async for request in requests:
        readable(request)
        yield request


async def _abort(context: Context, error: CellwireError) -> None:
    metrics.REFUSED.labels(error.reason).inc()
    await context.abort_with_status(rpc_status(error))


@contextmanager
def _observed(labels: tuple[str, str, str], context: Context) -> Iterator[None]:
    metrics.RPC_STARTED.labels(*labels).inc()
    started = time.perf_counter()
    code = "OK"
    try:
        yield
        if context.code():
            code = _code_name(context.code())
    except CellwireError as error:
        code = error.code.name
        raise
    except grpc.aio.AbortError:
        code = _code_name(context.code())
        raise
    except Exception:
        code = "INTERNAL"
        raise
    except BaseException:
        code = _code_name(context.code()) if context.code() else "CANCELLED"
        raise
    finally:
        metrics.RPC_SECONDS.labels(*labels).observe(time.perf_counter() - started)
        metrics.RPC_HANDLED.labels(*labels, code).inc()


def _code_name(code: Any) -> str:
    if isinstance(code, grpc.StatusCode):
        return str(code.name)
    return next((status.name for status in grpc.StatusCode if status.value[0] == code), "UNKNOWN")
