"""What a stream of many sessions has to tell, gathered into as few messages as may be.

Knows handles by their numbers only. In one message a client reads what was opened first, then replies column by column,
then refusals, then what was closed; so gathered, the answers of each handle keep their order.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from google.rpc.status_pb2 import Status

from cellwire.v1 import cell_service_pb2 as pb
from service import metrics
from service.codec import Reply, encode_status
from service.columns import encode_columns
from service.errors import CellwireError
from service.tensors import OutputsEncoder

SMALL_BYTES = 256
"""An answer without outputs counts as so many."""
_OPENED, _REFUSED, _CLOSED = 0, 1 << 30, (1 << 30) + 1
"""Places in a message, in the order in which they are read; from 1 on those of columns."""

Form = tuple[OutputsEncoder, int]
"""What replies that share columns have in common: the selection of outputs and the number of timesteps."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    step: int
    error: CellwireError
    ended: bool


_Answer = tuple[Form, Reply] | _Refusal | pb.Opened | pb.Closed


class Answers:
    """Answers that are ready, in the order in which they came about; handles put them in, the stream takes them out."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: about so many are sent in one message, and may be unsent before no more should be asked for."""
        self._ready: list[tuple[int, _Answer]] = []
        self._max_bytes = max_bytes
        self._unsent = 0
        self._received: Counter[float] = Counter()
        """Of the replies: when their messages were; those of one message share it."""
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def opened(self, handle: int, opened: pb.Opened) -> None:
        """The session is claimed."""
        self._put(handle, opened, SMALL_BYTES)

    def reply(self, handle: int, form: Form, reply: Reply, received: float | None = None) -> None:
        """The answer to one message, and when that was received (monotonic)."""
        if received is not None:
            self._received[received] += 1
        self._put(handle, (form, reply), SMALL_BYTES + len(reply.outputs))

    def refused(self, handle: int, step: int, error: CellwireError, ended: bool = False) -> None:
        """A message was not executed; `ended`: nor will any other of this handle."""
        self._put(handle, _Refusal(step, error, ended), SMALL_BYTES)

    def closed(self, handle: int, step: int) -> None:
        """The session was closed or left at this step, as its client asked."""
        self._put(handle, pb.Closed(step=step), SMALL_BYTES)

    def __len__(self) -> int:
        return len(self._ready)

    async def news(self) -> None:
        """Returns once something is ready, or `nudge` was called."""
        await self._news.wait()
        self._news.clear()

    def nudge(self) -> None:
        """Lets the one who waits for news look."""
        self._news.set()

    async def room(self) -> None:
        """Returns once not too much is unsent."""
        await self._room.wait()

    def take(self) -> Iterator[bytes]:
        """Everything that is ready, as serialized StreamManyResponses."""
        ready, self._ready, self._unsent = self._ready, [], 0
        received, self._received = self._received, Counter()
        self._room.set()
        now = time.monotonic()
        for at, count in received.items():
            metrics.STEP_SECONDS.observe(now - at, count)
        response = _Response(self._max_bytes)
        for handle, answer in ready:
            if not response.takes(handle, answer):
                yield response.encode()
                response = _Response(self._max_bytes)
                response.takes(handle, answer)
        if ready:
            yield response.encode()

    def _put(self, handle: int, answer: _Answer, size: int) -> None:
        self._ready.append((handle, answer))
        self._unsent += size
        if self._unsent > self._max_bytes:
            self._room.clear()
        self._news.set()


class _Response:
    """One message in the making."""

    def __init__(self, max_bytes: int) -> None:
        self._bytes_left = max_bytes
        self._message = pb.StreamManyResponse()
        self._columns: list[tuple[Form, list[int], list[Reply]]] = []
        self._newest: dict[Form, int] = {}
        """The place of the last columns of each form."""
        self._last: dict[int, int] = {}
        """The place of the last answer of each handle."""
        self._statuses: dict[int, Status] = {}
        """By the identity of its error: many handles may be refused for one reason."""

    def takes(self, handle: int, answer: _Answer) -> bool:
        """Puts the answer in; False where it is full, or would have it stand before an earlier one of its handle."""
        last = self._last.get(handle, _OPENED)
        place = self._place(answer, last)
        if place < last or self._bytes_left <= 0:
            return False
        self._last[handle] = place
        self._bytes_left -= SMALL_BYTES
        if isinstance(answer, tuple):
            form, reply = answer
            if place > len(self._columns):
                self._columns.append((form, [], []))
                self._newest[form] = place
            _, handles, replies = self._columns[place - 1]
            handles.append(handle)
            replies.append(reply)
            self._bytes_left -= len(reply.outputs)
        elif isinstance(answer, _Refusal):
            status = self._status(answer.error)
            self._message.refused.add(handle=handle, step=answer.step, status=status, ended=answer.ended)
        elif isinstance(answer, pb.Opened):
            self._message.opened.add(handle=handle, opened=answer)
        else:
            self._message.closed.add(handle=handle, closed=answer)
        return True

    def encode(self) -> bytes:
        """Serialized."""
        columns = [encode_columns(*form, handles, replies) for form, handles, replies in self._columns]
        self._message.replies.extend(columns)
        return self._message.SerializeToString()

    def _place(self, answer: _Answer, last: int) -> int:
        if isinstance(answer, tuple):
            newest = self._newest.get(answer[0], 0)
            return newest if newest > 0 and newest >= last else len(self._columns) + 1
        if isinstance(answer, _Refusal):
            return _REFUSED
        return _OPENED if isinstance(answer, pb.Opened) else _CLOSED

    def _status(self, error: CellwireError) -> Status:
        metrics.REFUSED.labels(error.reason).inc()
        status = self._statuses.get(id(error))
        if status is None:
            status = self._statuses[id(error)] = encode_status(error)
        return status
