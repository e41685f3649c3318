"""uvicorn around the application: limits, shutdown, signals."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Protocol, cast

import uvicorn
from starlette.types import ASGIApp

from server.connections import Connections, affordable_connections
from server.hosts import ANY_HOST, AllowedHosts
from server.listen import ListenError
from server.observe.observer import Observer
from server.protocol import HttpProtocol
from server.wire.limits import (
    HTTP_KEEP_ALIVE_SECONDS,
    LAST_WORDS_SECONDS,
    LINGER_SECONDS,
    MAX_CONNECTIONS,
    RECEIVE_DEADLINE_SECONDS,
    STALL_SECONDS,
)

_TICK_SECONDS = 0.05


class OpenRequests(Protocol):
    """What is to be finished before the server ends."""

    @property
    def num_open(self) -> int: ...

    def start_draining(self) -> None:
        """Refuse new ones. May be called again, and from a signal handler."""

    def end_all(self) -> None:
        """Have all be answered with an error, soon."""


class HttpServer(uvicorn.Server):
    """Ends gracefully on the first signal and at once on the second; remembers which came.

    Requests that have not finished `drain_timeout` seconds after the first one are told so; what is
    left a little later is cut off.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_ready: Callable[[], None],
        log_level: str,
        *,
        hosts: AllowedHosts = ANY_HOST,
        observer: Observer | None = None,
        receive_deadline: float = RECEIVE_DEADLINE_SECONDS,
        stall_timeout: float = STALL_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
        requests: OpenRequests | None = None,
        drain_timeout: float = 0.0,
    ) -> None:
        """`requests` get `drain_timeout` seconds to end after the first signal; `observer` is told
        of what is refused before it comes to `app`."""
        protocol = partial(
            HttpProtocol,
            open_connections=Connections(affordable_connections(max_connections)),
            hosts=hosts,
            observer=observer,
            receive_deadline=receive_deadline,
            stall_timeout=stall_timeout,
        )
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
                timeout_graceful_shutdown=math.ceil(LINGER_SECONDS),
            )
        )
        self._on_ready = on_ready
        self._requests = requests
        self._drain_timeout = drain_timeout
        self.signal_received: signal.Signals | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as exc:
            raise ListenError(f"cannot listen: {exc.strerror}. Choose another --port.") from None
        self._on_ready()

    async def main_loop(self) -> None:
        """Also the time after the first signal, in which new requests are answered with a 503."""
        await super().main_loop()
        if self._requests is None:
            return
        self._requests.start_draining()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_timeout
        # Signals set no event, here as in uvicorn.
        while self._requests.num_open and loop.time() < end and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(_TICK_SECONDS)
        self._requests.end_all()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn waits for nothing after the second signal, nor for the answers to be written of
        # what it cancels in the end.
        await super().shutdown(sockets)
        await self._wait_for_tasks()
        for task in self.server_state.tasks:
            task.cancel()
        await self._wait_for_tasks()

    async def _wait_for_tasks(self) -> None:
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS_SECONDS)

    def stop(self) -> None:
        """End gracefully."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signal_received = signal.Signals(sig)
        self.force_exit = self.should_exit
        self.should_exit = True
        if self._requests is not None:
            self._requests.start_draining()

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
