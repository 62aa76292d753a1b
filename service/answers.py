"""What a stream of many sessions has to tell, gathered into as few messages as may be.

Knows of a handle its number and where its last answer stands. In one message a client reads first what was opened, then
replies column by column, then refusals, then what was closed; gathered for that, a handle's answers keep their order.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

from google.rpc.status_pb2 import Status

from cellwire.v1 import cell_service_pb2 as pb
from service import metrics
from service.codec import Reply, encode_status
from service.columns import encode_columns
from service.errors import CellwireError
from service.tensors import OutputsEncoder

SMALL_BYTES = 256
"""An answer without outputs counts as so many."""
_REFUSED, _CLOSED, _PLACES = 1 << 30, (1 << 30) + 1, 1 << 31
"""Places in a message in the order in which they are read, from 1 on those of columns, before them what was opened; and
how many there are."""

Form = tuple[OutputsEncoder, int]
"""What replies that share columns have in common: the selection of outputs and the number of timesteps."""


class Recipient:
    """A handle as far as answers know it."""

    __slots__ = ("last_place", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.last_place = 0
        """Of its last answer; places are counted on from message to message."""


class Answers:
    """Answers that are ready: handles put them in as they come about, the stream takes them out."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: about so many are sent in one message, and may be unsent before no more should be asked for."""
        self._max_bytes = max_bytes
        self._full: list[_Response] = []
        self._response = _Response(0)
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def opened(self, to: Recipient, opened: pb.Opened) -> None:
        """The session is claimed."""
        response = self._response_for(to, 0)
        response.message.opened.add(handle=to.number, opened=opened)
        self._put(response, SMALL_BYTES)

    def reply(self, to: Recipient, form: Form, reply: Reply, received: float | None = None) -> None:
        """The answer to one message, and when that was received (monotonic)."""
        response = self._response
        columns = response.newest.get(form)
        if columns is None or columns.place < to.last_place:
            response = self._response_for(to, _REFUSED - 1)
            columns = response.new_columns(form)
        to.last_place = columns.place
        columns.handles.append(to.number)
        columns.replies.append(reply)
        columns.received.append(received)
        self._put(response, len(reply.outputs))

    def refused(self, to: Recipient, step: int, error: CellwireError, ended: bool = False) -> None:
        """A message was not executed; `ended`: nor will any other of this handle."""
        metrics.REFUSED.labels(error.reason).inc()
        response = self._response_for(to, _REFUSED)
        status = response.status(error)
        response.message.refused.add(handle=to.number, step=step, status=status, ended=ended)
        self._put(response, SMALL_BYTES)

    def closed(self, to: Recipient, step: int) -> None:
        """The session was closed or left at this step, as its client asked."""
        response = self._response_for(to, _CLOSED)
        response.message.closed.add(handle=to.number, closed=pb.Closed(step=step))
        self._put(response, SMALL_BYTES)

    def __bool__(self) -> bool:
        return bool(self._full or self._response.bytes)

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
        if self._response.bytes:
            self._turn_page()
        full, self._full = self._full, []
        self._room.set()
        for response in full:
            yield response.encode()

    def _response_for(self, to: Recipient, place: int) -> "_Response":
        """The message that takes an answer at this place: the one in the making, or the next if an earlier answer of
        the handle stands behind it."""
        if self._response.first_place + place < to.last_place:
            self._turn_page()
        to.last_place = self._response.first_place + place
        return self._response

    def _put(self, response: "_Response", size: int) -> None:
        if not response.bytes:
            self._news.set()
        response.bytes += size
        if response.bytes > self._max_bytes:
            self._turn_page()
            self._room.clear()

    def _turn_page(self) -> None:
        self._full.append(self._response)
        self._response = _Response(self._response.first_place + _PLACES)


class _Columns:
    """Replies that share a form."""

    __slots__ = ("handles", "place", "received", "replies")

    def __init__(self, place: int) -> None:
        self.place = place
        self.handles: list[int] = []
        self.replies: list[Reply] = []
        self.received: list[float | None] = []


class _Response:
    """One message in the making."""

    def __init__(self, first_place: int) -> None:
        self.first_place = first_place
        self.bytes = 0
        """About as many as it will have; 0 if it is empty."""
        self.message = pb.StreamManyResponse()
        self.newest: dict[Form, _Columns] = {}
        """The last columns of each form."""
        self._columns: list[tuple[Form, _Columns]] = []
        self._statuses: dict[CellwireError, Status] = {}
        """Many handles may be refused for one reason."""

    def new_columns(self, form: Form) -> _Columns:
        """Behind all others."""
        columns = self.newest[form] = _Columns(self.first_place + 1 + len(self._columns))
        self._columns.append((form, columns))
        return columns

    def status(self, error: CellwireError) -> Status:
        """The error as it is sent."""
        status = self._statuses.get(error)
        if status is None:
            status = self._statuses[error] = encode_status(error)
        return status

    def encode(self) -> bytes:
        """Serialized."""
        now = time.monotonic()
        for form, columns in self._columns:
            self.message.replies.append(encode_columns(*form, columns.handles, columns.replies))
            for received, count in Counter(columns.received).items():
                if received is not None:
                    metrics.STEP_SECONDS.observe(now - received, count)
        return self.message.SerializeToString()
