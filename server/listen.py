"""The listening socket and uvicorn around the application: limits, shutdown, signals."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from engine import OctavoError
from server.protocol import HttpProtocol
from server.wire.limits import (
    DRAIN_SECONDS,
    HTTP_KEEP_ALIVE_SECONDS,
    RECEIVE_DEADLINE_SECONDS,
)


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


def socket_url(sock: socket.socket) -> str:
    """The address as a URL that works on this machine."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(sock.getsockname()[0]).is_loopback


class HttpServer(uvicorn.Server):
    """Ends gracefully on the first signal and at once on the second; remembers which came."""

    def __init__(
        self,
        app: ASGIApp,
        on_ready: Callable[[], None],
        log_level: str,
        *,
        receive_deadline: float = RECEIVE_DEADLINE_SECONDS,
    ) -> None:
        protocol = partial(HttpProtocol, receive_deadline=receive_deadline)
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("type[HttpProtocol]", protocol),  # called, and nothing else
                log_level="info" if log_level == "debug" else "warning",
                log_config=None,
                access_log=log_level == "debug",
                server_header=False,
                ws="none",
                lifespan="off",
                timeout_keep_alive=HTTP_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        self._on_ready = on_ready
        self.signal_received: signal.Signals | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as exc:
            raise ListenError(f"cannot listen: {exc.strerror}. Choose another --port.") from None
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signal_received = signal.Signals(sig)
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Unlike uvicorn's, it does not raise the signals again: the engine is to be closed first.
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {sig: signal.signal(sig, self.handle_exit) for sig in handled}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)
