"""SessionService: what is known of sessions in the store, whoever serves them. Translates only."""

import asyncio
import re
import time
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from cellwire.v1 import session_service_pb2 as pb
from cellwire.v1 import session_service_pb2_grpc
from service.calls import Calls
from service.codec import TOKEN_BYTES, OpenRequest, decode_session_id, duration
from service.errors import CellwireError, Unsupported
from service.store.scripts import Seen
from service.store.store import Store
from service.tensors import invalid
from service.values import Mode

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
CURSOR = re.compile(r"[0-9]{0,20}")
MAX_CURSOR = 2**64 - 1
LONGEST_CLOSE = 10.0
"""Seconds that a close may wait for a session that another replica holds."""


class SessionServicer(session_service_pb2_grpc.SessionServiceServicer):
    """Get, list and close. Lists run one at a time: they walk the whole store."""

    def __init__(self, store: Store, calls: Calls, tombstone: float, replicas: int) -> None:
        self._store = store
        self._calls = calls
        self._tombstone = tombstone
        self._replicas = replicas
        self._listing = asyncio.Lock()

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:  # noqa: N802
        """One session."""
        session_id = decode_session_id(request.session_id)
        (seen,) = await self._store.peek([session_id])
        if isinstance(seen, CellwireError):
            raise seen
        return pb.GetSessionResponse(session=_session(session_id, seen))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:  # noqa: N802
        """A page of sessions, in no order, less those that cannot be read. The page token is the store's cursor."""
        if request.page_size > MAX_PAGE_SIZE:
            raise invalid("page_size", f"at most {MAX_PAGE_SIZE}")
        if not CURSOR.fullmatch(request.page_token) or int(request.page_token or 0) > MAX_CURSOR:
            raise invalid("page_token", "the next_page_token of the last page")
        async with self._listing:
            cursor, names = await self._store.scan(int(request.page_token or 0), request.page_size or PAGE_SIZE)
            seen = await self._store.peek(names) if names else []
        sessions = [
            _session(name, session) for name, session in zip(names, seen, strict=True) if isinstance(session, Seen)
        ]
        return pb.ListSessionsResponse(sessions=sessions, next_page_token=str(cursor) if cursor else "")

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Any) -> pb.CloseSessionResponse:  # noqa: N802
        """A client's close with its token, an operator's without. Closing again is no error."""
        session_id = decode_session_id(request.session_id)
        if not request.create_token:
            killed_at = await self._store.kill(session_id, self._tombstone, self._replicas)
            return pb.CloseSessionResponse(step=killed_at)
        if len(request.create_token) != TOKEN_BYTES:
            raise invalid("create_token", f"{TOKEN_BYTES} bytes, or none")
        resume = OpenRequest(session_id, request.create_token, Mode.RESUME)
        step = request.step if request.HasField("step") else None
        return pb.CloseSessionResponse(step=await self._calls.close(resume, step, time.monotonic() + LONGEST_CLOSE))

    async def ForkSession(self, request: pb.ForkSessionRequest, context: Any) -> pb.ForkSessionResponse:  # noqa: N802
        """Not in this release."""
        raise Unsupported("this release does not fork sessions")

    async def RewindSession(self, request: pb.RewindSessionRequest, context: Any) -> pb.RewindSessionResponse:  # noqa: N802
        """Not in this release."""
        raise Unsupported("this release does not rewind sessions")

    async def ExportSession(self, request: pb.ExportSessionRequest, context: Any) -> pb.ExportSessionResponse:  # noqa: N802
        """Not in this release."""
        raise Unsupported("this release does not export sessions")

    async def ImportSession(self, request: pb.ImportSessionRequest, context: Any) -> pb.ImportSessionResponse:  # noqa: N802
        """Not in this release."""
        raise Unsupported("this release does not import sessions")


def _session(session_id: str, seen: Seen) -> pb.Session:
    updated = Timestamp()
    updated.FromMilliseconds(round(seen.updated * 1000))
    name, _, rest = seen.model.partition("/")
    version = rest.partition("/")[0]
    return pb.Session(
        session_id=session_id,
        step=seen.step,
        h=seen.h,
        epoch=seen.epoch,
        incarnation=seen.incarnation,
        model=name,
        version=version,
        closed=seen.closed,
        unnumbered=seen.unnumbered,
        lease=duration(seen.lease_left),
        expires_in=duration(seen.expires_in),
        updated=updated,
        state_bytes=seen.state_bytes,
    )
