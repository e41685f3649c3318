"""Who may come in: without a key nobody, to no URL, unless it is on the list below.

Plain ASGI in front of the routes, so that a new route is guarded without doing anything for it. It
decides on the scope's path, the one that is routed, and before anything of a body is read.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from server.api_keys import ApiKeys
from server.observe.record import record_of
from server.tenants import set_tenant
from server.wire.errors import CLOSE, ApiError

PUBLIC_PATHS = frozenset({"/health", "/livez", "/metrics", "/ping", "/readyz"})

_Headers = Iterable[tuple[bytes, bytes]]


class KeyGuard:
    """ASGI middleware for a server that has keys."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # No route answers OPTIONS with anything but what else it can be asked.
        is_open = scope["type"] == "lifespan" or (
            scope["type"] == "http"
            and (scope["path"] in PUBLIC_PATHS or scope["method"] == "OPTIONS")
        )
        if not is_open:
            record = record_of(scope)
            key = presented_key(scope["headers"])
            tenant = None if key is None else self._keys.owner(key)
            if tenant is None:
                error = _unauthorized(key is None, _announces_body(scope["headers"]))
                if record is not None:
                    record.fail(error.type, error.code)
                await error.response()(scope, receive, send)
                return
            set_tenant(scope, tenant)
            if record is not None:
                record.key_name = tenant.name
        await self._app(scope, receive, send)


def presented_key(headers: _Headers) -> bytes | None:
    """The key that a request comes with; None without one, b"" (never a key) for what is not one.

    `Authorization: Bearer KEY`, or else, as some clients send it, `api-key` or `x-api-key`.
    """
    authorizations = [value for name, value in headers if name == b"authorization"]
    if authorizations:
        scheme, _, key = authorizations[0].partition(b" ")
        is_bearer = len(authorizations) == 1 and scheme.lower() == b"bearer"
        return key.strip() if is_bearer else b""
    keys = [value for name, value in headers if name in (b"api-key", b"x-api-key")]
    if not keys:
        return None
    return keys[0].strip() if len(keys) == 1 else b""


def _announces_body(headers: _Headers) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )


def _unauthorized(is_missing: bool, has_body: bool) -> ApiError:
    headers = {"WWW-Authenticate": "Bearer"} | (CLOSE if has_body else {})
    if is_missing:
        return ApiError(
            401,
            "This server needs an API key. Send it as 'Authorization: Bearer YOUR_KEY'.",
            headers=headers,
        )
    return ApiError(401, "The API key is not valid.", code="invalid_api_key", headers=headers)
