"""What the head of a request may look like: one valid Host, and one way to tell where it ends.

The parser in front of this accepts more, and two servers that read one request in two ways is how
requests are smuggled. Sizes are bounded while the head arrives, in `server/protocol.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from server.wire.errors import CLOSE, ApiError, overloaded_at_the_door
from server.wire.limits import (
    MAX_ECHOED_NAME,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_URL_BYTES,
)

# RFC 3986: a name or an IPv4 address, or an IPv6 address in brackets; then perhaps a port.
_HOST = re.compile(rb"(?:[\w.~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


def check_head(version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The Host, None where HTTP/1.0 has none. `version` as in "1.1"; `headers` with lower-case
    names. Raises ApiError 400."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    if version not in ("1.0", "1.1"):
        raise invalid_http("This server speaks HTTP/1.1.")
    hosts = values.get(b"host", [])
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise invalid_http("A request must have exactly one Host header.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise invalid_http("The Host header is not a host name with an optional port.")
    if b"transfer-encoding" in values:
        codings = [coding.lower() for coding in values[b"transfer-encoding"]]
        if version == "1.0" or codings != [b"chunked"]:
            raise invalid_http("The only Transfer-Encoding is 'chunked', in HTTP/1.1.")
        if b"content-length" in values:
            raise invalid_http("A request has Content-Length or Transfer-Encoding, not both.")
    return hosts[0] if hosts else None


def invalid_http(message: str = "This is not a valid HTTP/1.1 request.") -> ApiError:
    return ApiError(400, message, headers=CLOSE)


def wrong_host(host: bytes) -> ApiError:
    """421, as RFC 9110, 7.4 has it for a name that is not this server's."""
    name = host.decode("ascii")[:MAX_ECHOED_NAME]
    return ApiError(
        421,
        f"This server does not answer to the name '{name}' (the Host header). Ask for localhost or "
        "an address, or start it with --allowed-hosts and the name.",
        code="host_not_allowed",
        headers=CLOSE,
    )


def headers_too_large() -> ApiError:
    return ApiError(
        431,
        f"The request's headers are over the limit of {MAX_HEADER_BYTES} bytes or "
        f"{MAX_HEADERS} headers.",
        code="headers_too_large",
        headers=CLOSE,
    )


def url_too_long() -> ApiError:
    return ApiError(
        414,
        f"The request's URL is longer than the limit of {MAX_URL_BYTES} bytes.",
        code="url_too_long",
        headers=CLOSE,
    )


def too_many_connections() -> ApiError:
    """For a connection that finds no room, or has to make some: no request of it came whole."""
    return overloaded_at_the_door("This server has too many connections. Try again in a moment.")


def receive_timeout(seconds: float) -> ApiError:
    return ApiError(
        408,
        f"The request did not arrive within {seconds:g} seconds.",
        code="request_timeout",
        headers=CLOSE,
    )
