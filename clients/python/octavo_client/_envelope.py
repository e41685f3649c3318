"""Errors out of HTTP answers and out of failed exchanges, whichever server they come from.

Reads the envelopes of OpenAI and Octavo, vLLM and llama.cpp (`error` an object), SGLang (flat),
text-generation-inference and bare refusals (`error` a text), FastAPI (`detail`). Does no input or
output.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from octavo_client._errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableEntityError,
)

_ERROR_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}
MAX_SHOWN = 200


@dataclass(frozen=True)
class Said:
    """What a server says about an error; None is what it does not say."""

    message: str | None = None
    type: str | None = None
    code: str | None = None
    param: str | None = None


def read_error(body: object) -> Said | None:
    """The error in a parsed body, None if there is none in it."""
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    if isinstance(error, Mapping) and error:
        return _said(error)
    if isinstance(error, str) and error:
        return Said(error, type=_text(body.get("error_type")), code=_text(body.get("code")))
    if body.get("object") == "error" or (isinstance(body.get("message"), str) and not error):
        return _said(body)
    if "detail" in body:
        return _detail(body["detail"])
    return None


def stream_error(body: object, request_id: str | None) -> APIError:
    """What an error in the middle of a stream is called."""
    said = read_error(body) or Said(body[:MAX_SHOWN] if isinstance(body, str) else None)
    return APIError(
        said.message or "the server ended the stream with an error",
        type=said.type,
        code=said.code,
        param=said.param,
        request_id=request_id,
        body=body,
    )


def status_error(response: httpx.Response) -> APIStatusError:
    """The error of a response that was read, from whatever body it has."""
    status = response.status_code
    body: object
    try:
        body = json.loads(response.content)
    except ValueError:
        body = response.text
    said = read_error(body) or Said()
    message = said.message
    if not message:
        message = f"HTTP {status} from {_place(response)}"
        if response.text:
            message += f": {response.text[:MAX_SHOWN]}"
    default = InternalServerError if status >= 500 else APIStatusError
    return _ERROR_BY_STATUS.get(status, default)(
        message,
        status_code=status,
        retry_after=retry_after(response.headers, time.time()),
        type=said.type,
        code=said.code,
        param=said.param,
        request_id=request_id_of(response),
        body=body,
        response=response,
    )


def transport_error(error: httpx.RequestError, request: httpx.Request) -> APIError:
    """What a failed exchange is called here."""
    words = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return APITimeoutError(f"no answer from {request.url} in time: {words}")
    if isinstance(error, httpx.DecodingError):
        return APIResponseValidationError(f"the answer of {request.url} is garbled: {words}")
    return APIConnectionError(f"no answer from {request.url}: {words}")


def request_id_of(response: httpx.Response) -> str | None:
    request_id: str | None = response.headers.get("x-request-id")
    return request_id or response.headers.get("request-id")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds from `now` after which a server wants to be asked again, None if not said.

    `Retry-After` holds seconds or an HTTP date; `retry-after-ms` is finer and comes first.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        return max(parsedate_to_datetime(value).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def _number(value: str | None) -> float | None:
    try:
        number = math.nan if value is None else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _said(error: Mapping[str, object]) -> Said:
    return Said(*(_text(error.get(name)) for name in ("message", "type", "code", "param")))


def _detail(detail: object) -> Said | None:
    """FastAPI's: a text, or the problems that pydantic found, of which the first is told."""
    if isinstance(detail, list) and detail and isinstance(detail[0], Mapping):
        where = detail[0].get("loc")
        names = [str(part) for part in where] if isinstance(where, list) else []
        param = ".".join(name for name in names if name != "body") or None
        return Said(_text(detail[0].get("msg")), type=_text(detail[0].get("type")), param=param)
    return Said(detail) if isinstance(detail, str) else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _place(response: httpx.Response) -> str:
    """Where it came from; responses that a test or the benchmark makes have no request."""
    try:
        return str(response.url)
    except RuntimeError:
        return "the server"
