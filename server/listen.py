"""The address that the server listens on. Imports nothing that takes long."""

from __future__ import annotations

import ipaddress
import socket

from engine import OctavoError
from server.wire.limits import MAX_PROBES, PROBE_AFTER_SECONDS, PROBE_SECONDS

_MAX_MILLISECONDS = 2**31 - 1  # a socket option is a number of the system's


class ListenError(OctavoError):
    """The address cannot be listened on."""


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises ListenError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise ListenError(
            f"cannot listen on {host} port {port}: {reason}. Choose another --host or --port."
        ) from None
    return sock


def notice_absence(sock: socket.socket, unread_seconds: float) -> None:
    """Have the system end a connection whose client's machine is gone without a word, or which
    takes nothing for `unread_seconds`. Linux waits as long for an answer to its probes too, in
    place of counting them (tcp(7), TCP_USER_TIMEOUT)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", PROBE_AFTER_SECONDS),
        ("TCP_KEEPINTVL", PROBE_SECONDS),
        ("TCP_KEEPCNT", MAX_PROBES),
        ("TCP_USER_TIMEOUT", max(int(min(unread_seconds * 1000, _MAX_MILLISECONDS)), 1)),
    ):
        option = getattr(socket, name, None)  # not every system has them all
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def socket_url(sock: socket.socket) -> str:
    """The address as a URL that works on this machine."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(sock.getsockname()[0]).is_loopback
