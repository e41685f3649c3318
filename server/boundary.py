"""The outermost layer of the application: every answer has a request id, every failure an answer.

And every request a record, from here to its end, and its body a part of the memory for all. Plain
ASGI, because it must not buffer streams. What was handled further in is left alone.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.bodies import Bodies, HeldBody
from server.disconnect import ClientDisconnected, refusal_of
from server.observe.observer import Observer
from server.observe.record import CLIENT_CLOSED_REQUEST
from server.wire.errors import internal_error, shutting_down

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SCOPE_KEY = "octavo.request_id"


def request_id_of(scope: Scope) -> str:
    """The id of a request, the same each time. A client's own `x-request-id` is taken over if it
    is harmless."""
    request_id: str | None = scope.get(_SCOPE_KEY)
    if request_id is None:
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = f"req_{uuid.uuid4().hex}"
        scope[_SCOPE_KEY] = request_id
    return request_id


class RequestBoundary:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, observer: Observer, bodies: Bodies) -> None:
        self._app = app
        self._observer = observer
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        body = HeldBody(self._bodies, receive)
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                body.release()
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = headers["request-id"] = request_id
            await send(message)

        with self._observer.request(scope, request_id) as record:
            try:
                await self._app(scope, body.receive, send_with_id)
            except asyncio.CancelledError:
                # The server ends, and its patience has: uvicorn would write a traceback and plain
                # text.
                logger.warning("%s %r: cut off by the end of the server", request_id, scope["path"])
                error = shutting_down()
                record.fail(error.type, error.code)
                if not has_started:
                    await error.response()(scope, receive, send_with_id)
            except ClientDisconnected:
                refusal = refusal_of(scope)
                if refusal is None:
                    record.status = CLIENT_CLOSED_REQUEST
                    logger.debug("%s %r: the client went away", request_id, scope["path"])
                else:
                    record.status = refusal.status
                    record.fail(refusal.type, refusal.code)
            except Exception:
                logger.exception("%s %s %r failed", request_id, scope["method"], scope["path"])
                error = internal_error()
                record.fail(error.type, error.code)
                if has_started:
                    raise  # the server cuts the connection: the client must not take it for whole
                await error.response()(scope, receive, send_with_id)
            finally:
                body.release()
