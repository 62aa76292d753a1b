"""What one writes first: a grpcio server that gets the state from Redis, runs the model, and sets it again.

Well done as such: uvloop, bare bytes instead of protobuf, hiredis, one thread of ONNX Runtime. At most once: a message
that is sent again advances the state again. With BENCHMARKS_STATE=memory the state is in a dict and dies with the
process.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import onnxruntime as ort
import uvloop
from redis.asyncio import Redis

Get = Callable[[bytes], Awaitable[bytes | None]]
Set = Callable[[bytes, bytes], Awaitable[object]]


def session(path: Path) -> ort.InferenceSession:
    """The model, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Naive:
    """One stream a session; its name comes first."""

    def __init__(self, model: ort.InferenceSession, get: Get, put: Set) -> None:
        self._model = model
        self._get, self._put = get, put
        self._layers, _, self._hidden = model.get_inputs()[1].shape

    async def stream(self, requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        key = b"naive:" + await anext(requests)
        await self._put(key, bytes(2 * 4 * self._layers * self._hidden))
        yield b""
        async for request in requests:
            state = np.frombuffer(await self._get(key) or b"", np.float32).reshape(2, self._layers, 1, self._hidden)
            x = np.frombuffer(request, np.float32)[np.newaxis]
            y, hidden, cell = self._model.run(
                ["y", "hidden_out", "cell_out"], {"x": x, "hidden": state[0], "cell": state[1]}
            )
            await self._put(key, hidden.tobytes() + cell.tobytes())
            yield y.tobytes()


def memory() -> tuple[Get, Set]:
    """A dict."""
    states: dict[bytes, bytes] = {}

    async def get(key: bytes) -> bytes | None:
        return states.get(key)

    async def put(key: bytes, state: bytes) -> None:
        states[key] = state

    return get, put


async def main() -> None:
    if os.environ["BENCHMARKS_STATE"] == "memory":
        get, put = memory()
    else:
        redis = Redis.from_url(os.environ["BENCHMARKS_STORE"], max_connections=256)
        get, put = cast(Get, redis.get), redis.set
    naive = Naive(session(Path(os.environ["BENCHMARKS_MODEL"])), get, put)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers = {"Stream": grpc.stream_stream_rpc_method_handler(naive.stream)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmarks.Naive", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(Path(os.environ["CELLWIRE_PORT_FILE"]).write_text, f"{port}\n")
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
