"""Hostile inputs 1-30 and 100: transport and body. Rows like those of `hostile_rows.py`."""

from __future__ import annotations

import json

from hostile_rows import (
    BIG,
    CHUNKED,
    ENCODING,
    GET,
    GOOD,
    GOOD_BODY,
    HOST,
    JSON,
    KIND,
    NOT_JSON,
    OVERSIZE,
    POST,
    TYPE,
    URL,
    VALUE,
    Row,
    chunks,
    closed,
    completion,
    http,
    length,
    members,
    post,
    raw,
)

WIRE_ROWS = [
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
    Row(12, "UTF-16 without a BOM", post(json.dumps(GOOD).encode("utf-16-le")), part=NOT_JSON),
    Row(12, "UTF-32", post(json.dumps(GOOD).encode("utf-32")), part=NOT_JSON),
    Row(12, "UTF-8 BOM", post(b"\xef\xbb\xbf" + GOOD_BODY), part=NOT_JSON),
    Row(13, "NUL", completion(prompt="\0", echo=True), 200, part='"text":"\\u0000'),
    Row(14, "100,000 deep", members('"prompt": ' + "[" * 100_000 + "]" * 100_000), part=NOT_JSON),
    Row(14, "100,000 deep, nothing else", post(b"[" * 100_000), part=NOT_JSON),
    Row(14, "100,000 deep, unknown", members('"foo": ' + '{"a":' * 100_000), part=NOT_JSON),
    Row(15, "duplicate keys", members('"n": 1, "n": 2'), 200, part='"index":1'),
    Row(16, "unknown", completion(foo=1), code="unknown_parameter", part="supplied: foo"),
    Row(16, "a typo", completion(tempature=1), code="unknown_parameter", part="'temperature'?"),
    Row(16, "a name of 100 KB", completion(**{"f" * 100_000: 1}), code="unknown_parameter"),
    closed(17, "too long", post(BIG), 413, "request_too_large"),
    closed(17, "announced", length(str(len(BIG))), 413, "request_too_large"),
    closed(18, "too long in chunks", chunks(BIG), 413, "request_too_large"),
    closed(19, "shorter than said", length("99"), 408, "request_timeout", "hasty"),
    Row(19, "longer than said", length("1"), part=NOT_JSON),
    closed(19, "two lengths", length("1\r\nContent-Length: 2")),
    closed(19, "a list of lengths", length("2, 2")),
    closed(19, "a negative length", length("-1")),
    closed(19, "a length in hex", length("0x2")),
    closed(19, "a length with a sign", length("+2")),
    closed(19, "two numbers in a length", length("2 2")),
    closed(19, "no length", length("")),
    closed(19, "a length of 2^64 + 2", length(str(2**64 + 2))),
    closed(20, "length, chunked", raw(POST, HOST, "Content-Length: 5", CHUNKED, body=b"0\r\n\r\n")),
    closed(20, "chunked, length", raw(POST, HOST, CHUNKED, "Content-Length: 5", body=b"0\r\n\r\n")),
    closed(20, "gzip and chunked", raw(POST, HOST, "Transfer-Encoding: gzip, chunked")),
    closed(20, "identity", raw(POST, HOST, "Transfer-Encoding: identity")),
    closed(20, "chunked twice", raw(POST, HOST, CHUNKED, CHUNKED)),
    closed(20, "HTTP/1.0 in chunks", raw("POST / HTTP/1.0", CHUNKED)),
    closed(20, "xchunked", raw(POST, HOST, "Transfer-Encoding: xchunked")),
    closed(20, "chunked, identity", raw(POST, HOST, "Transfer-Encoding: chunked, identity")),
    closed(20, "a chunk of 2^64", raw(POST, HOST, KIND, CHUNKED, body=b"1" + b"0" * 16 + b"\r\n")),
    closed(20, "a chunk of -1", raw(POST, HOST, KIND, CHUNKED, body=b"-1\r\n")),
    closed(20, "a chunk longer than said", raw(POST, HOST, KIND, CHUNKED, body=b"1\r\n{}\r\n")),
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
            ("multipart", "Content-Type: multipart/form-data; boundary=x\r\n"),
            ("a list of types", "Content-Type: text/plain, application/json\r\n"),
            ("another JSON", "Content-Type: application/merge-patch+json\r\n"),
            ("UTF-16 (22)", "Content-Type: application/json; charset=utf-16\r\n"),
            ("latin-1 (22)", "Content-Type: application/json; charset=latin-1\r\n"),
        )
    ),
    Row(22, "utf-8", post(GOOD_BODY, "Content-Type: application/json; charset=UTF-8\r\n"), 200),
    Row(
        22, "in quotes", post(GOOD_BODY, 'Content-Type: application/json; charset="utf-8"\r\n'), 200
    ),
    Row(22, "in capitals", post(GOOD_BODY, "Content-Type: Application/JSON\r\n"), 200),
    *(
        Row(23, coding, post(b"", f"{JSON}Content-Encoding: {coding}\r\n"), 415, code=ENCODING)
        for coding in ("gzip", "br", "zstd", "deflate", "identity, gzip")
    ),
    Row(23, "identity", post(GOOD_BODY, f"{JSON}Content-Encoding: identity\r\n"), 200),
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
        for path in (
            *("/v1/completion", f"/{URL}", f"{URL}/", "/", "/V1/completions", f"{URL};x=1"),
            *("/v1/x/../completions", "/../../etc/passwd"),
        )
    ),
    Row(26, "NUL", http("POST", f"{URL}%00", JSON, GOOD_BODY), 404, part=f"{URL}\\u0000"),
    Row(26, "a line feed", http("POST", "/v2/x%0Ay", JSON, GOOD_BODY), 404, part="/v2/x\\ny"),
    closed(27, "header of 60 KB", raw(GET, HOST, "A: " + "a" * 60_000), 431, OVERSIZE),
    closed(27, "header name of 60 KB", raw(GET, HOST, "A" * 60_000 + ": a"), 431, OVERSIZE),
    closed(27, "1,000 headers", raw(GET, HOST, *["A: b"] * 999), 431, OVERSIZE),
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
    closed(28, "an empty Host", raw(GET, "Host: ")),
    closed(28, "a user in Host", raw(GET, "Host: localhost@x")),
    closed(28, "a list of Hosts", raw(GET, "Host: localhost, x")),
    *(
        closed(
            28, f"not ours: {host:.30}", raw(GET, f"Host: {host}"), 421, "host_not_allowed", "local"
        )
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "a" * 5000)
    ),
    *(
        Row(28, f"ours: {host}", raw(GET, f"Host: {host}"), 200, server="local")
        for host in ("localhost", "LOCALHOST.:8000", "127.0.0.1:8000", "[::1]:8000")
    ),
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
    closed(30, "half a chunk", chunks(GOOD_BODY)[:-20], 408, "request_timeout", "hasty"),
    closed(30, "half a head", b"GET /health HTTP/1.1\r\nHo", 408, "request_timeout", "hasty"),
]
