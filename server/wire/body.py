"""A request's body: read raw under a cap, checked, parsed strictly from the bytes.

Knows nothing of what a body means. Compressed bodies and other types than JSON are refused unread.
That it comes in time is seen to in `server/protocol.py`.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from server.disconnect import ClientDisconnected
from server.wire.errors import CLOSE, ApiError, bad_request
from server.wire.limits import MAX_BODY_BYTES, MAX_CONTAINERS
from server.wire.validation import from_validation_error, not_json

Model = TypeVar("Model", bound=BaseModel)

# A string, or what begins as one to the end: it takes any bytes, and none of them twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.?+[^"\\]*+)*+"?', re.DOTALL)


async def read_json_body(request: Request) -> bytes:
    """The bytes of a JSON body. Raises ApiError 413 or 415, or ClientDisconnected."""
    _check_content_type(request)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise _too_large()
    except ClientDisconnect:
        raise ClientDisconnected from None
    return bytes(body)


def parse_json(model: type[Model], body: bytes) -> Model:
    """`body` as a `model`: no coercion, no NaN, no lone surrogates. Raises ApiError 400."""
    _check_containers(body)
    try:
        with _no_collections():
            if b"NaN" in body or b"Infinity" in body:
                # Pydantic's parser takes these for numbers; outside of strings they are no JSON.
                from_json(body, allow_inf_nan=False)
            return model.model_validate_json(body)
    except ValidationError as exc:  # first: it is a ValueError too
        raise from_validation_error(exc) from None
    except ValueError as exc:
        raise not_json(str(exc)) from None


def _check_containers(body: bytes) -> None:
    """A million arrays take six times as long to parse as any other body of their size, and hold up
    everybody meanwhile."""
    if body.count(b"[") + body.count(b"{") <= MAX_CONTAINERS:
        return
    outside = _STRING.sub(b"", body)
    if outside.count(b"[") + outside.count(b"{") > MAX_CONTAINERS:
        raise bad_request(
            None,
            "array_above_max_length",
            f"The body of your request has more than {MAX_CONTAINERS:,} arrays and objects.",
        )


@contextmanager
def _no_collections() -> Iterator[None]:
    """No search for garbage: there is none, and of a million short lists each search looks at all
    that are there already. That was 60 % of the time for which such a body holds up everybody."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _check_content_type(request: Request) -> None:
    # A header that is there twice is a list, which neither of these may be.
    kind, *parameters = ", ".join(request.headers.getlist("content-type")).lower().split(";")
    if kind.strip() != "application/json" or not all(map(_is_harmless, parameters)):
        raise ApiError(
            415,
            "Send the body as 'Content-Type: application/json' (in UTF-8).",
            code="unsupported_content_type",
            headers=CLOSE,
        )
    encoding = ", ".join(request.headers.getlist("content-encoding")).lower()
    if encoding not in ("", "identity"):
        raise ApiError(
            415,
            "Compressed request bodies are not supported. Send it without Content-Encoding.",
            code="unsupported_content_encoding",
            headers=CLOSE,
        )


def _is_harmless(parameter: str) -> bool:
    """Whether a parameter of the type, in lower case, says nothing else than UTF-8."""
    name, _, value = parameter.strip().partition("=")
    is_utf8 = value.strip(' \t"').replace("_", "-") in ("utf-8", "utf8")
    return is_utf8 or not name.startswith("charset")


def _too_large() -> ApiError:
    return ApiError(
        413,
        f"The request body is larger than the limit of {MAX_BODY_BYTES} bytes.",
        code="request_too_large",
        headers=CLOSE,
    )
