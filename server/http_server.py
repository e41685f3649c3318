"""uvicorn around the application: limits, shutdown, signals."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from server.listen import ListenError
from server.protocol import HttpProtocol
from server.wire.limits import (
    DRAIN_SECONDS,
    HTTP_KEEP_ALIVE_SECONDS,
    RECEIVE_DEADLINE_SECONDS,
)

# For answers that end with an error to reach their clients.
_CUT_OFF_SECONDS = 5


class HttpServer(uvicorn.Server):
    """Ends gracefully on the first signal and at once on the second; remembers which came.

    Requests that have not finished `drain_timeout` seconds after the first one are to be ended by
    `on_drain_timeout`; what is left a little later is cut off.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_ready: Callable[[], None],
        log_level: str,
        *,
        receive_deadline: float = RECEIVE_DEADLINE_SECONDS,
        drain_timeout: int = DRAIN_SECONDS,
        on_drain_timeout: Callable[[], None] = lambda: None,
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
                timeout_graceful_shutdown=drain_timeout + _CUT_OFF_SECONDS,
            )
        )
        self._on_ready = on_ready
        self._drain_timeout = drain_timeout
        self._on_drain_timeout = on_drain_timeout
        self.signal_received: signal.Signals | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as exc:
            raise ListenError(f"cannot listen: {exc.strerror}. Choose another --port.") from None
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._drain_timeout, self._on_drain_timeout)
        await super().shutdown(sockets)
        timer.cancel()

    def stop(self) -> None:
        """End gracefully."""
        self.should_exit = True

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
