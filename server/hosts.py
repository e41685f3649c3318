"""The names that this server answers to, so that no web page can make its own name one of them.

A page can have its name point to the loopback address after it was loaded (DNS rebinding): the
browser then takes this server for a part of the page and lets it read the answers. The Host header
still has the page's name. An address in it says that no name was looked up: addresses always pass.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence

from server.listen import is_loopback

_PATTERN = re.compile(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*\.?", re.ASCII)


class AllowedHosts:
    """`localhost`, the names below it, addresses, and `names`: exact ones in lower case,
    `*.example.com` for all below that one, `*` for any."""

    def __init__(self, names: Iterable[str]) -> None:
        names = ("localhost", "*.localhost", *(name.removesuffix(".") for name in names))
        self._is_any = "*" in names
        self._exact = frozenset(name.encode() for name in names)
        self._endings = tuple(name[1:].encode() for name in names if name.startswith("*."))

    def allows(self, host: bytes) -> bool:
        """`host` is a valid Host header. Its port says nothing: what listens there is ours."""
        if self._is_any or host.startswith(b"["):
            return True
        name = host_name(host)
        # Nobody can register a name that ends with a number: it is an address, as in URLs.
        is_address = name.rpartition(b".")[2].isdigit()
        return is_address or name in self._exact or name.endswith(self._endings)


ANY_HOST = AllowedHosts(("*",))


def allowed_hosts(wanted: Sequence[str], host: str, sock: socket.socket) -> AllowedHosts:
    """For a server on `sock`, which was bound to `host`: the names that the operator wants, and
    without any all names, but on the loopback address only those of this machine."""
    if wanted or is_loopback(sock):
        return AllowedHosts((*wanted, host.lower()))
    return ANY_HOST


def host_name(host: bytes) -> bytes:
    """A Host header without its port and the dot that a complete name may end with."""
    return host.lower().partition(b":")[0].removesuffix(b".")


def parse_hosts(text: str) -> list[str]:
    """Names joined by commas, as the operator writes them. Raises ValueError."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if not _PATTERN.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a host name. Names look like api.example.com, *.example.com (all "
                "below it) or * (any), and have no port; addresses need not be named."
            )
    return names
