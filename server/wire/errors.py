"""What a client is told when a request fails: one envelope, on every path.

`{"error": {"message", "type", "param", "code"}}`, all four keys, always. Texts are ours: never the
`str()` of an unexpected exception, never a large part of the client's input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from engine import EngineDeadError, SlowReaderError
from server.observe.record import record_of
from server.wire.limits import MAX_ECHOED_CHARACTERS, RETRY_AFTER_SECONDS

INVALID_REQUEST = "invalid_request_error"
CLOSE = {"Connection": "close"}  # the headers of an answer after which nothing more is read


class ApiError(Exception):
    """An error with everything its HTTP answer needs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers

    def envelope(self) -> str:
        """The body as JSON text: ASCII, on one line, so that it can be an SSE event too."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}, separators=(",", ":"))

    def response(self) -> Response:
        return Response(self.envelope(), self.status, self.headers, "application/json")


class BadRequest(ApiError, ValueError):
    """A ValueError too, so that pydantic goes on when a validator raises it, and collects more."""


def bad_request(param: str | None, code: str | None, message: str) -> BadRequest:
    """400: something in the request is wrong and `param` says where."""
    return BadRequest(400, message, param=param, code=code)


def unavailable(message: str, code: str) -> ApiError:
    """503: not the client's fault, and worth another try soon."""
    return ApiError(
        503,
        message,
        type="service_unavailable_error",
        code=code,
        headers=retry_headers(RETRY_AFTER_SECONDS) | {"x-should-retry": "true"},
    )


def retry_headers(seconds: float) -> dict[str, str]:
    """When to try again, in whole seconds as HTTP has it and in milliseconds as `openai` reads."""
    return {
        "Retry-After": str(max(math.ceil(seconds), 1)),
        "retry-after-ms": str(math.ceil(seconds * 1000)),
    }


def overloaded() -> ApiError:
    return unavailable(
        "Too many requests wait for this server already. Try again in a moment.",
        "server_is_overloaded",
    )


def overloaded_at_the_door(message: str) -> ApiError:
    """As `overloaded`, for what has not been read to its end: the connection closes."""
    error = unavailable(message, "server_is_overloaded")
    return ApiError(
        error.status,
        message,
        type=error.type,
        code=error.code,
        headers={**(error.headers or {}), **CLOSE},
    )


def shutting_down() -> ApiError:
    return unavailable("This server is shutting down. Try again in a moment.", "shutting_down")


def timed_out(seconds: float, *, was_started: bool) -> ApiError:
    """504 for a request that took too long; one that never came to its turn may be sent again."""
    waited = "was not answered" if was_started else "had to wait and was not started"
    return ApiError(
        504,
        f"The request {waited} within the server's limit of {seconds:g} seconds.",
        type="server_error",
        code="request_timeout",
        headers={"x-should-retry": "false"} if was_started else retry_headers(RETRY_AFTER_SECONDS),
    )


def model_loading() -> ApiError:
    return unavailable("The model is loading. Try again in a moment.", "model_loading")


def internal_error() -> ApiError:
    """500 for what nobody foresaw; the log has the rest."""
    return ApiError(500, "The server failed to answer this request.", type="server_error")


def api_error(exc: Exception, method: str = "", path: str = "") -> ApiError:
    """What a client is told about `exc`."""
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, EngineDeadError):
        return unavailable(
            "The engine went away while it worked on this request; it is being started again.",
            "engine_restarting",
        )
    if isinstance(exc, SlowReaderError):
        return ApiError(
            503,
            "The stream was not read as fast as it was computed, and is too large to be kept.",
            type="server_error",
            code="reader_too_slow",
        )
    if isinstance(exc, HTTPException):
        return _from_http_exception(exc, f"{method} {path[:MAX_ECHOED_CHARACTERS]}")
    return internal_error()


def _from_http_exception(exc: HTTPException, target: str) -> ApiError:
    """Starlette's own refusals: no such route, wrong method."""
    if exc.status_code == 404:
        return ApiError(404, f"Invalid URL ({target})")
    if exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "another method")
        return ApiError(
            405,
            f"Invalid method ({target}). Use {allowed}.",
            code="method_not_supported",
            headers=exc.headers,
        )
    return ApiError(exc.status_code, str(exc.detail), headers=exc.headers)


async def answer_error(request: Request, exc: Exception) -> Response:
    """The exception handler of the application."""
    error = api_error(exc, request.method, request.scope["path"])
    record = record_of(request.scope)
    if record is not None:
        record.fail(error.type, error.code)
    return error.response()
