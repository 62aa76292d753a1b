"""The same client without async: each call waits for its answer; the work runs on an event loop in a thread.

with Client("localhost:50051") as client, client.session("mic-1", model="silero_vad") as session:
    for reply in session.stream(frames):
        print(reply.step, reply.outputs["output"])
"""

import asyncio
import threading
from collections.abc import Coroutine, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from cellwire import client as asynchronous
from cellwire import session as asynchronous_session
from cellwire.frames import drawn
from cellwire.replies import Model, Opened, Reply, Resumption
from cellwire.resume import ResumePoint
from cellwire.tensors import Frame

_Answer = TypeVar("_Answer")


class Client:
    """As `cellwire.client.Client`, with its options and `with` for `async with`.

    Its methods may be called from several threads.
    """

    def __init__(self, targets: str | Sequence[str], **options: Any) -> None:
        self._client = asynchronous.Client(targets, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cellwire", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channels and end the thread. Sessions should be left before."""
        self.wait(self._client.close())
        self.wait(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def session(self, session_id: str | None = None, **options: Any) -> "Session":
        """A session, to be entered with `with`; the options are those of `cellwire.client.Client.session`."""
        return Session(self, self._client.session(session_id, **options))

    def step(self, point: ResumePoint, frame: Frame, **options: Any) -> tuple[Reply, ResumePoint]:
        """Advance a session without a stream, as `cellwire.client.Client.step`."""
        return self.wait(self._client.step(point, frame, **options))

    def models(self) -> list[Model]:
        """What the replicas serve."""
        return self.wait(self._client.models())

    def model(self, name: str, version: str = "") -> Model:
        """One model; ModelUnknown if there is none of this name."""
        return self.wait(self._client.model(name, version))

    def wait(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Run a coroutine on the client's loop; whoever waits and is interrupted cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


class Session:
    """As `cellwire.session.Session`: leaving the `with` normally closes it, by an exception keeps its state."""

    def __init__(self, client: Client, session: asynchronous_session.Session) -> None:
        self._client = client
        self._session = session

    @property
    def session_id(self) -> str:
        """The id that the session has in the store."""
        return self._session.session_id

    @property
    def opened(self) -> Opened:
        """Facts of the last opening."""
        return self._session.opened

    @property
    def last_step(self) -> int:
        """The number of the last timestep whose reply the application got."""
        return self._session.last_step

    @property
    def resumptions(self) -> tuple[Resumption, ...]:
        """Each change of stream since the session was opened."""
        return self._session.resumptions

    @property
    def fetched(self) -> tuple[Reply, ...]:
        """The stored replies that came with the open, if it asked for them."""
        return self._session.fetched

    @property
    def resume_point(self) -> ResumePoint:
        """Where the application stands. A secret."""
        return self._session.resume_point

    def __enter__(self) -> Self:
        self._client.wait(self._session.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.wait(self._session.__aexit__(kind, error, trace))

    def step(self, frame: Frame, **options: Any) -> Reply:
        """Advance the state by one message and give its reply, as `cellwire.session.Session.step`."""
        return self._client.wait(self._session.step(frame, **options))

    def stream(self, frames: Iterable[Frame], **options: Any) -> Generator[Reply, None, None]:
        """Advance the state by each frame; yield the replies in order, each exactly once.

        `frames` is iterated in a thread of its own, so it may wait (for a microphone, a socket). The options are those
        of `cellwire.session.Session.stream`.
        """
        source = drawn(frames)
        replies = self._session.stream(source, **options)

        async def following() -> Reply | None:
            return await anext(replies, None)

        async def leave() -> None:
            await replies.aclose()
            await source.aclose()

        try:
            while (reply := self._client.wait(following())) is not None:
                yield reply
        finally:
            self._client.wait(leave())
