"""A request's body: read raw under a cap and a deadline, checked, parsed strictly from the bytes.

Knows nothing of what a body means. Compressed bodies and other types than JSON are refused unread.
"""

from __future__ import annotations

import asyncio
from email.message import Message
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from server.disconnect import ClientDisconnected
from server.errors import ApiError, bad_request
from server.limits import BODY_DEADLINE_SECONDS, MAX_BODY_BYTES
from server.validation import from_validation_error

Model = TypeVar("Model", bound=BaseModel)

_CLOSE = {"Connection": "close"}


async def read_json_body(request: Request) -> bytes:
    """The bytes of a JSON body. Raises ApiError 408, 413 or 415, or ClientDisconnected."""
    _check_content_type(request)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise ApiError(
            408,
            f"The body did not arrive within {BODY_DEADLINE_SECONDS:g} seconds.",
            code="request_timeout",
            headers=_CLOSE,
        ) from None
    except ClientDisconnect:
        raise ClientDisconnected from None
    return bytes(body)


def parse_json(model: type[Model], body: bytes) -> Model:
    """`body` as a `model`: no coercion, no NaN, no lone surrogates. Raises ApiError 400."""
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        error = from_validation_error(exc)
    except ApiError as exc:
        error = exc
    # Pydantic's parser lets NaN and Infinity pass as far as the fields; they are not JSON.
    try:
        from_json(body, allow_inf_nan=False)
    except ValueError as exc:
        raise bad_request(
            None, None, f"We could not parse the JSON body of your request: {exc}."
        ) from None
    raise error


def _check_content_type(request: Request) -> None:
    message = Message()
    message["content-type"] = request.headers.get("content-type", "")
    charset = message.get_param("charset", "utf-8")
    if message.get_content_type() != "application/json" or str(charset).lower().replace(
        "_", "-"
    ) not in ("utf-8", "utf8"):
        raise ApiError(
            415,
            "Send the body as 'Content-Type: application/json' (in UTF-8).",
            code="unsupported_content_type",
            headers=_CLOSE,
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(
            415,
            "Compressed request bodies are not supported. Send it without Content-Encoding.",
            code="unsupported_content_encoding",
            headers=_CLOSE,
        )


def _too_large() -> ApiError:
    return ApiError(
        413,
        f"The request body is larger than the limit of {MAX_BODY_BYTES} bytes.",
        code="request_too_large",
        headers=_CLOSE,
    )
