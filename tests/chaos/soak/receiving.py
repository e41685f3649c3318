"""Who still waits for a client's next message when its request is over.

Under uvicorn such a call returns soon after the answer, so a count of tasks in a quiet moment does
not show who was left behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Receivers:
    """`num_left`: calls of `receive` that had not returned when the application had."""

    num_left: int = 0


class CountReceivers:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, receivers: Receivers) -> None:
        self._app = app
        self._receivers = receivers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        num_waiting = 0

        async def counted() -> Message:
            nonlocal num_waiting
            num_waiting += 1
            try:
                return await receive()
            finally:
                num_waiting -= 1

        try:
            await self._app(scope, counted, send)
        finally:
            self._receivers.num_left += num_waiting
