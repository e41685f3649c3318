"""How much memory the bodies of all requests together may take.

Each body has a cap of its own (`server/wire/body.py`), but there may be thousands of connections.
The beginning of a body is free, as much as its connection's buffer may hold anyway: so requests of
the usual size are served beside any number of large ones that come slowly.
"""

from __future__ import annotations

from starlette.types import Message, Receive

from server.wire.errors import overloaded_at_the_door
from server.wire.limits import FREE_BODY_BYTES


class Bodies:
    """Counts what has come of bodies whose requests are not being answered yet.

    What has come, not what was announced: to announce much costs a client nothing.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: bytes, beyond what is free of each."""
        self._limit = limit
        self.num_bytes = 0

    def take(self, num_bytes: int) -> None:
        """Raises ApiError 503, having taken nothing."""
        if self.num_bytes + num_bytes > self._limit:
            raise overloaded_at_the_door(
                "Too many large requests are on their way or wait already. Try again in a moment."
            )
        self.num_bytes += num_bytes


class HeldBody:
    """The part of one request, which reads its body by `receive`."""

    def __init__(self, bodies: Bodies, receive: Receive) -> None:
        self._bodies = bodies
        self._receive = receive
        self._size = 0
        self._num_held = 0

    async def receive(self) -> Message:
        """The next message from the server. Raises ApiError 503 when it has no room."""
        message = await self._receive()
        self._size += len(message.get("body", b""))
        num_more = self._size - FREE_BODY_BYTES - self._num_held
        if num_more > 0:
            self._bodies.take(num_more)
            self._num_held += num_more
        return message

    def release(self) -> None:
        """The request is being answered: what it holds now is bounded by the queue's limits and by
        the engine's rows. May be called again."""
        self._bodies.num_bytes -= self._num_held
        self._size = self._num_held = 0
