"""How uvicorn's answers leave a connection: where they end, and who closes it then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class CloseDelimited:
    """The application for a client of HTTP/1.0, which does not know chunks: what has no length ends
    with the connection."""

    def __init__(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._cycle = cycle
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        has_length = True

        async def send_unframed(message: Any) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                names = [name.lower() for name, _ in message["headers"]]
                has_length = b"content-length" in names
            if not has_length:
                # To uvicorn each piece looks like the whole of an answer whose length is known.
                self._cycle.chunked_encoding = False
                self._cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_unframed)


class AnswerTransport:
    """What uvicorn needs of a transport to write an answer, with a `close` of our own."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close
