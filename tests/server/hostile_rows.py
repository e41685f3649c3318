"""Inputs that a server may meet, each with the right answer: one row, one line. To be extended.

The numbers are those of the project's list of hostile inputs: 1-30 transport and body, 31-38 keys
and models, 39-54 prompts, 55-88 parameters, 89-104 streams, 105-124 the process.
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

ServerName = Literal["open", "with a key", "hasty", "loading", "full", "limited", "draining"]


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
    # Transport and body.
    Row(1, "cut", post(b'{"model":'), part=NOT_JSON),
    Row(1, "where it is cut", post(b'{"model":'), part="line 1, column 9"),
    Row(1, "gzip without saying so", post(b"\x1f\x8b\x08\x00"), part=NOT_JSON),
    Row(2, "empty", post(b""), part=NOT_JSON),
    Row(3, "array", post(b"[]"), code=TYPE, part="must be a JSON object"),
    Row(3, "null", post(b"null"), code=TYPE),
    Row(3, "string", post(b'"x"'), code=TYPE),
    Row(3, "number", post(b"5"), code=TYPE),
    Row(4, "trailing garbage", post(b'{"n":1} x'), part=NOT_JSON),
    Row(4, "two objects", post(b"{}{}"), part=NOT_JSON),
    Row(5, "NaN", members('"temperature": NaN'), part=NOT_JSON),
    Row(5, "Infinity", members('"temperature": Infinity'), part=NOT_JSON),
    Row(5, "-Infinity, unknown", members('"foo": -Infinity'), part=NOT_JSON),
    Row(5, "NaN prompt", members('"prompt": NaN'), part=NOT_JSON),
    Row(6, "1e999", members('"temperature": 1e999'), 400, "temperature", VALUE),
    Row(7, "n 1e400", members('"n": 1e400'), 400, "n", TYPE),
    Row(8, "5,000 digits", members('"n": ' + "9" * 5000), part=NOT_JSON),
    Row(9, "lone surrogate", members('"prompt": "\\ud800"'), part=NOT_JSON),
    Row(10, "lone surrogate as n", members('"n": "\\ud800"'), part=NOT_JSON),
    Row(11, "invalid UTF-8", post(b'{"model": "fake-model", "prompt": "\xff"}'), part=NOT_JSON),
    Row(12, "UTF-16", post(json.dumps(GOOD).encode("utf-16")), part=NOT_JSON),
    Row(12, "UTF-8 BOM", post(b"\xef\xbb\xbf" + GOOD_BODY), part=NOT_JSON),
    Row(13, "NUL", completion(prompt="\0", echo=True), 200, part='"text":"\\u0000'),
    Row(14, "100,000 deep", members('"prompt": ' + "[" * 100_000 + "]" * 100_000), part=NOT_JSON),
    Row(14, "100,000 deep, unknown", members('"foo": ' + '{"a":' * 100_000), part=NOT_JSON),
    Row(15, "duplicate keys", members('"n": 1, "n": 2'), 200, part='"index":1'),
    Row(16, "unknown", completion(foo=1), code="unknown_parameter", part="supplied: foo"),
    Row(16, "a typo", completion(tempature=1), code="unknown_parameter", part="'temperature'?"),
    Row(16, "a name of 100 KB", completion(**{"f" * 100_000: 1}), code="unknown_parameter"),
    closed(17, "too long", post(BIG), 413, "request_too_large"),
    closed(18, "too long in chunks", chunks(BIG), 413, "request_too_large"),
    closed(19, "shorter than said", length("99"), 408, "request_timeout", "hasty"),
    Row(19, "longer than said", length("1"), part=NOT_JSON),
    closed(19, "two lengths", length("1\r\nContent-Length: 2")),
    closed(19, "a list of lengths", length("2, 2")),
    closed(19, "a negative length", length("-1")),
    closed(19, "a length in hex", length("0x2")),
    closed(20, "length, chunked", raw(POST, HOST, "Content-Length: 5", CHUNKED, body=b"0\r\n\r\n")),
    closed(20, "chunked, length", raw(POST, HOST, CHUNKED, "Content-Length: 5", body=b"0\r\n\r\n")),
    closed(20, "gzip and chunked", raw(POST, HOST, "Transfer-Encoding: gzip, chunked")),
    closed(20, "identity", raw(POST, HOST, "Transfer-Encoding: identity")),
    closed(20, "chunked twice", raw(POST, HOST, CHUNKED, CHUNKED)),
    closed(20, "HTTP/1.0 in chunks", raw("POST / HTTP/1.0", CHUNKED)),
    closed(20, "a bad chunk", raw(POST, HOST, KIND, CHUNKED, body=b"zz\r\n")),
    closed(20, "a folded header", raw(GET, HOST, "A: b", " c")),
    closed(20, "a space before the colon", raw(GET, HOST, "A : b")),
    closed(20, "bare line feeds", b"GET /health HTTP/1.1\nHost: x\n\n"),
    *(
        Row(21, name, post(GOOD_BODY, header), 415, code="unsupported_content_type")
        for name, header in (
            ("no type", ""),
            ("text", "Content-Type: text/plain\r\n"),
            ("form", "Content-Type: application/x-www-form-urlencoded\r\n"),
            ("latin-1 (22)", "Content-Type: application/json; charset=latin-1\r\n"),
        )
    ),
    Row(22, "utf-8", post(GOOD_BODY, "Content-Type: application/json; charset=UTF-8\r\n"), 200),
    Row(22, "in capitals", post(GOOD_BODY, "Content-Type: Application/JSON\r\n"), 200),
    *(
        Row(23, coding, post(b"", f"{JSON}Content-Encoding: {coding}\r\n"), 415, code=ENCODING)
        for coding in ("gzip", "br", "zstd")
    ),
    closed(
        24,
        "too long, with Expect",
        raw(POST, HOST, KIND, "Expect: 100-continue", f"Content-Length: {len(BIG)}"),
        413,
        "request_too_large",
    ),
    Row(100, "HEAD", http("HEAD"), 405, headers={"allow": "POST"}),
    *(Row(100, f"HEAD {path}", http("HEAD", path), 200) for path in ("/health", "/livez")),
    *(
        Row(25, name, http(name), 405, code="method_not_supported", headers={"allow": "POST"})
        for name in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")
    ),
    *(
        Row(26, path, http("POST", path, JSON, GOOD_BODY), 404, part=f"Invalid URL (POST {path})")
        for path in ("/v1/completion", f"/{URL}", f"{URL}/", "/", "/V1/completions")
    ),
    Row(26, "a line feed", http("POST", "/v2/x%0Ay", JSON, GOOD_BODY), 404, part="/v2/x\\ny"),
    closed(27, "header of 60 KB", raw(GET, HOST, "A: " + "a" * 60_000), 431, OVERSIZE),
    closed(27, "header of 4 MB", raw(GET, HOST, "A: " + "a" * 4_000_000), 431, OVERSIZE),
    closed(
        27,
        "40 headers of 1 KB",
        raw(GET, HOST, *["A: " + "a" * 1000] * 40),
        431,
        OVERSIZE,
    ),
    closed(27, "101 headers", raw(GET, HOST, *["A: b"] * 100), 431, OVERSIZE),
    closed(
        27,
        "101 trailers",
        raw(POST, HOST, KIND, CHUNKED, body=b"1\r\n \r\n0\r\n" + b"A: b\r\n" * 101),
        431,
        OVERSIZE,
    ),
    closed(27, "URL of 64 KB", http("GET", "/" + "a" * 65_536), 414, "url_too_long"),
    closed(28, "no Host", raw(GET)),
    closed(28, "two Hosts", raw(GET, HOST, HOST)),
    closed(28, "a path in Host", raw("GET /v1/models HTTP/1.1", "Host: x/health?")),
    Row(28, "an IPv6 address", raw(GET, "Host: [::1]:8000"), 200),
    closed(29, "HTTP/1.0", raw("GET /health HTTP/1.0"), 200),
    Row(
        29,
        "HTTP/1.0, a stream",
        post(json.dumps(GOOD | {"stream": True}).encode()).replace(b"HTTP/1.1", b"HTTP/1.0"),
        200,
        part="data: [DONE]",
        headers={"connection": "close"},
    ),
    closed(29, "HTTP/0.9", b"GET /\r\n\r\n"),
    closed(29, "HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    closed(29, "HTTP/2", raw("GET / HTTP/2.0", HOST)),
    closed(29, "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    closed(29, "CONNECT", raw("CONNECT x:1 HTTP/1.1", HOST)),
    closed(29, "a URL without a path", raw("GET http://x?y HTTP/1.1", HOST)),
    closed(29, "an unknown method", raw("BREW / HTTP/1.1", HOST)),
    Row(29, "a websocket", raw(GET, HOST, "Connection: Upgrade", "Upgrade: websocket"), 200),
    closed(30, "half a head", b"GET /health HTTP/1.1\r\nHo", 408, "request_timeout", "hasty"),
    # Keys and models.
    locked(31, "no key", "", code=None),
    Row(31, "no key, no such URL", http("GET", "/x"), 401, server="with a key"),
    Row(31, "health", http("GET", "/health"), 200, server="with a key"),
    *(
        Row(32, header, post(GOOD_BODY, f"{JSON}{header}\r\n"), 200, server="with a key")
        for header in ("Authorization: bearer sk-good", "api-key: sk-good")
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
    Row(35, "no model", without("model"), 400, "model", "missing_required_parameter"),
    Row(35, "nothing", post(b"{}"), 400, "model", "missing_required_parameter"),
    Row(36, "unknown", completion(model="other"), 404, code="model_not_found", part="'other'"),
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
