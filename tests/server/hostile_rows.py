"""Inputs that a server may meet, each with the right answer: one row, one line. To be extended.

The numbers are those of the project's list of hostile inputs: 1-30 transport and body
(`hostile_wire_rows.py`), 31-38 keys and models, 39-54 prompts and 55-88 parameters
(`hostile_field_rows.py`), 89-104 streams, 105-124 the process.
`test_hostile_rows.py` sends each as it stands and then looks whether the server still answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from live_app import MODEL

from server.wire.limits import MAX_BODY_BYTES

URL = "/v1/completions"
JSON = "Content-Type: application/json\r\n"
GOOD: dict[str, Any] = {"model": MODEL, "prompt": "x", "max_tokens": 2}
KEY = "sk-good"

MIN, MAX = "integer_below_min_value", "integer_above_max_value"
LOW, HIGH = "decimal_below_min_value", "decimal_above_max_value"
TYPE, VALUE = "invalid_type", "invalid_value"
SHORT, LONG = "string_below_min_length", "string_above_max_length"
MANY, CONTEXT = "array_above_max_length", "context_length_exceeded"
UNSUPPORTED = "unsupported_parameter"


POST = f"POST {URL} HTTP/1.1"
GET = "GET /health HTTP/1.1"
HOST = "Host: x"
KIND = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
GOOD_BODY = json.dumps(GOOD).encode()
BIG = b" " * (MAX_BODY_BYTES + 1)
ENCODING = "unsupported_content_encoding"
OVERSIZE = "headers_too_large"
NOT_JSON = "could not parse the JSON body"

ServerName = Literal[
    "open", "local", "with a key", "hasty", "loading", "full", "limited", "draining"
]


@dataclass(frozen=True)
class Row:
    """`request` goes over the socket as it is. `part` is somewhere in the answer's body."""

    number: int
    name: str
    request: bytes
    status: int = 400
    param: str | None = None
    code: str | None = None
    part: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    server: ServerName = "open"
    type: str = "invalid_request_error"


def closed(
    number: int,
    name: str,
    request: bytes,
    status: int = 400,
    code: str | None = None,
    server: ServerName = "open",
) -> Row:
    """A row after which the connection is closed."""
    headers = {"connection": "close"}
    return Row(number, name, request, status, code=code, headers=headers, server=server)


def locked(number: int, name: str, header: str, code: str | None = "invalid_api_key") -> Row:
    """A completion with this header for a server with a key, which does not let it in."""
    headers = {"www-authenticate": "Bearer", "connection": "close"}
    request = post(GOOD_BODY, f"{JSON}{header}")
    return Row(number, name, request, 401, code=code, headers=headers, server="with a key")


def http(method: str, path: str = URL, headers: str = "", body: bytes | None = None) -> bytes:
    """A request as text, with a Content-Length if it has a body."""
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n"
    return head.encode("latin-1") + (body or b"")


def post(body: bytes, headers: str = JSON) -> bytes:
    return http("POST", URL, headers, body)


def completion(**fields: Any) -> bytes:
    """A good completion request with these fields changed."""
    return post(json.dumps(GOOD | fields).encode())


def members(text: str) -> bytes:
    """A good completion request with more members, as they are written."""
    return post(f"{json.dumps(GOOD)[:-1]}, {text}}}".encode())


def refused(number: int, code: str, **values: list[Any]) -> list[Row]:
    """A row for each of these values of these fields, all refused for the same reason."""
    return [
        Row(number, f"{name} {value!r:.30}", completion(**{name: value}), 400, name, code)
        for name in values
        for value in values[name]
    ]


def accepted(number: int, **values: list[Any]) -> list[Row]:
    return [
        Row(number, f"{name} {value!r:.30}", completion(**{name: value}), 200)
        for name in values
        for value in values[name]
    ]


def without(name: str) -> bytes:
    return post(json.dumps({key: GOOD[key] for key in GOOD if key != name}).encode())


def chunks(body: bytes) -> bytes:
    """A completion request with this body in one chunk."""
    return raw(POST, HOST, KIND, CHUNKED, body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def length(value: str) -> bytes:
    """A completion request with the body "{}" and this for its Content-Length."""
    return raw(POST, HOST, KIND, f"Content-Length: {value}", body=b"{}")


def raw(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


ROWS = [
    # Keys and models.
    locked(31, "no key", "", code=None),
    Row(31, "no key, no such URL", http("GET", "/x"), 401, server="with a key"),
    Row(31, "health", http("GET", "/health"), 200, server="with a key"),
    *(
        Row(32, header, post(GOOD_BODY, f"{JSON}{header}\r\n"), 200, server="with a key")
        for header in ("Authorization: bearer sk-good", "api-key: sk-good", "x-api-key: sk-good")
    ),
    locked(32, "a wrong key", "Authorization: Bearer sk-wrong\r\n"),
    locked(32, "an empty key", "Authorization: Bearer \r\n"),
    locked(32, "not ASCII", "Authorization: Bearer sk-\xe9\r\n"),
    locked(32, "Basic", "Authorization: Basic c2stZ29vZDo=\r\n"),
    locked(32, "no scheme", "Authorization: sk-good\r\n"),
    locked(32, "30 KB", f"api-key: {'k' * 30_000}\r\n"),
    closed(
        32, "1 MB", http("GET", headers=f"A: {'k' * 1_000_000}\r\n"), 431, OVERSIZE, "with a key"
    ),
    locked(33, "a good and a wrong key", "Authorization: Bearer sk-good\r\nAuthorization: x\r\n"),
    locked(33, "two good keys", "Authorization: Bearer sk-good\r\n" * 2),
    Row(
        34,
        "OPTIONS",
        http("OPTIONS"),
        405,
        code="method_not_supported",
        server="with a key",
        headers={"allow": "POST"},
    ),
    Row(
        34,
        "a preflight",
        http(
            "OPTIONS",
            headers="Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n",
        ),
        405,
        code="method_not_supported",
        server="with a key",
        headers={"allow": "POST"},
    ),
    Row(35, "no model", without("model"), 400, "model", "missing_required_parameter"),
    Row(35, "nothing", post(b"{}"), 400, "model", "missing_required_parameter"),
    Row(36, "unknown", completion(model="other"), 404, code="model_not_found", part="'other'"),
    Row(36, "NUL", completion(model="\0"), 404, code="model_not_found", part="'\\u0000'"),
    *(
        Row(36, path, http("GET", path), 404, code="model_not_found")
        for path in ("/v1/models/../../etc/passwd", "/v1/models/%2e%2e%2fetc%2fpasswd")
    ),
    Row(36, "a path", completion(model="../../etc/passwd"), 404, code="model_not_found"),
    Row(36, "1 MB", completion(model="m" * 1_000_000), 404, code="model_not_found"),
    Row(36, "empty", completion(model=""), 400, "model", SHORT),
    Row(37, "number", completion(model=5), 400, "model", TYPE),
    Row(37, "null", completion(model=None), 400, "model", TYPE),
    Row(
        38,
        "while the model loads",
        completion(),
        503,
        code="model_loading",
        server="loading",
        type="service_unavailable_error",
        headers={"retry-after": "2"},
    ),
    # Queue, limits, shutdown.
    *(
        Row(
            96,
            f"beyond the queue, {name}",
            request,
            503,
            code="server_is_overloaded",
            server="full",
            type="service_unavailable_error",
            headers={"retry-after": "2", "retry-after-ms": "2000", "x-should-retry": "true"},
        )
        for name, request in (
            ("plain", completion()),
            ("a stream", completion(stream=True)),
            ("long", completion(prompt="x" * 4000)),
        )
    ),
    Row(96, "health beside a full queue", http("GET", "/health"), 200, server="full"),
    Row(
        97,
        "over a limit",
        completion(),
        429,
        code="rate_limit_exceeded",
        server="limited",
        type="rate_limit_error",
        headers={"x-ratelimit-limit-tokens": "1", "x-ratelimit-remaining-tokens": "1"},
    ),
    *(
        Row(
            112,
            name,
            request,
            503,
            code="shutting_down",
            server="draining",
            type="service_unavailable_error",
            headers={"retry-after": "2", "x-should-retry": "true"},
        )
        for name, request in (
            ("while draining", completion()),
            ("ready while draining", http("GET", "/readyz")),
            ("health while draining", http("GET", "/health")),
        )
    ),
    Row(112, "alive while draining", http("GET", "/livez"), 200, server="draining"),
    # Streams.
    *(
        Row(101, f"id {name}", http("GET", "/health", f"X-Request-Id: {value}\r\n"), 200)
        for name, value in (
            ("of 10 KB", "i" * 10_000),
            ("with an emoji", "\U0001f600".encode().decode("latin-1")),
            ("with a space", "a b"),
            ("that looks like a line", '{"level":"error"}'),
        )
    ),
    closed(101, "id with a line feed", raw(GET, HOST, "X-Request-Id: a\nb: c", "d: e")),
    Row(
        99,
        "Accept: application/json",
        post(
            json.dumps(GOOD | {"stream": True}).encode(),
            f"{JSON}Accept: application/json\r\nConnection: close\r\n",
        ),
        200,
        part="data: [DONE]",
        headers={"content-type": "text/event-stream; charset=utf-8"},
    ),
]
