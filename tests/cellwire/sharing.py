"""A client whose sessions share streams, for the tests of single sessions."""

from typing import Any

from cellwire.client import Client
from cellwire.session import Session
from cellwire.trunk import SharedStreams


class SharingClient(Client):
    """A client whose sessions share streams."""

    def __init__(self, *targets: Any, **options: Any) -> None:
        super().__init__(*targets, **options)
        self._shared = SharedStreams()

    def session(self, *session_id: Any, **options: Any) -> Session:
        return super().session(*session_id, dialling=self._shared, **options)

    async def close(self) -> None:
        await self._shared.end()
        await super().close()
