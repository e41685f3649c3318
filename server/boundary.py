"""The outermost layer of the application: every answer has a request id, every failure an answer.

And every request a record, from here to its end. Plain ASGI, because it must not buffer streams.
What was handled further in is left alone.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.disconnect import ClientDisconnected
from server.observe.observer import Observer
from server.observe.record import CLIENT_CLOSED_REQUEST
from server.wire.errors import internal_error, shutting_down

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def new_request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


class RequestBoundary:
    """ASGI middleware. A client's own `x-request-id` is taken over if it is harmless."""

    def __init__(self, app: ASGIApp, observer: Observer) -> None:
        self._app = app
        self._observer = observer

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
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = headers["request-id"] = request_id
            await send(message)

        with self._observer.request(scope, request_id) as record:
            try:
                await self._app(scope, receive, send_with_id)
            except asyncio.CancelledError:
                # The server ends, and its patience has: uvicorn would write a traceback and plain
                # text.
                logger.warning("%s %r: cut off by the end of the server", request_id, scope["path"])
                error = shutting_down()
                record.fail(error.type, error.code)
                if not has_started:
                    await error.response()(scope, receive, send_with_id)
            except ClientDisconnected:
                record.status = CLIENT_CLOSED_REQUEST
                logger.debug("%s %r: the client went away", request_id, scope["path"])
            except Exception:
                logger.exception("%s %s %r failed", request_id, scope["method"], scope["path"])
                error = internal_error()
                record.fail(error.type, error.code)
                if has_started:
                    raise  # the server cuts the connection: the client must not take it for whole
                await error.response()(scope, receive, send_with_id)
