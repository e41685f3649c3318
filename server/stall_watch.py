"""Whether a client with unread answers reads on: not how fast, but that it does."""

from __future__ import annotations

import asyncio

from server.connections import Connection
from server.wire.limits import MIN_READ_BYTES


class StallWatch:
    """Cuts a connection off whose client takes less than `MIN_READ_BYTES` in so many seconds."""

    def __init__(
        self, connection: Connection, loop: asyncio.AbstractEventLoop, seconds: float
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._num_unread_bytes = 0

    def begin(self) -> None:
        """More is unread than a buffer holds."""
        self._num_unread_bytes = self._connection.num_unread_bytes
        self._timer = self._loop.call_later(self._seconds, self._look)

    def end(self) -> None:
        """May be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._connection.num_unread_bytes <= self._num_unread_bytes - MIN_READ_BYTES:
            self.begin()
        else:
            self._connection.cut_off(f"it did not read for {self._seconds:g} s")
