"""The outermost layer of the application: every answer has a request id, every failure an answer.

Plain ASGI, because it must not buffer streams. What was handled further in is left alone.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.disconnect import ClientDisconnected
from server.wire.errors import internal_error, shutting_down

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def new_request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


class RequestBoundary:
    """ASGI middleware. A client's own `x-request-id` is taken over if it is harmless."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = new_request_id()
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = headers["request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server ends, and its patience has: uvicorn would write a traceback and plain text.
            logger.warning("%s %r: cut off by the end of the server", request_id, scope["path"])
            if not has_started:
                await shutting_down().response()(scope, receive, send_with_id)
        except ClientDisconnected:
            logger.info("%s %r: the client went away", request_id, scope["path"])
        except Exception:
            logger.exception("%s %s %r failed", request_id, scope["method"], scope["path"])
            if has_started:
                raise  # the server cuts the connection: the client must not take it for whole
            await internal_error().response()(scope, receive, send_with_id)
