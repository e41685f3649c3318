"""The HTTP side of `octavo serve`: the application and its server, put together.

Imported while the engine starts: a web framework takes long to import, and the engine to start.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from typing import cast

from fastapi import FastAPI

from engine import Checkpoint, Engine, EngineClient
from server.api_keys import ApiKeys
from server.app import create_app
from server.http_server import HttpServer
from server.services import Services
from server.settings import Settings
from server.tokenizer import load_tokenizer


def build_server(
    engine: Engine,
    checkpoint: Checkpoint,
    settings: Settings,
    model_names: Sequence[str],
    api_keys: ApiKeys,
    on_ready: Callable[[], None],
) -> HttpServer:
    """A server for an engine that may be starting still. Raises CheckpointError."""
    tokenizer = load_tokenizer(checkpoint.tokenizer)
    app = create_app(engine, tokenizer, settings, model_names, api_keys=api_keys)
    return HttpServer(
        app,
        on_ready,
        settings.log_level,
        stall_timeout=settings.stream_stall_timeout,
        max_connections=settings.max_connections,
        requests=app.state.services.queue,
        drain_timeout=settings.drain_timeout,
    )


async def run_server(
    server: HttpServer, sock: socket.socket, engine: EngineClient
) -> signal.Signals | None:
    """Serve on a bound socket until a signal comes; returns it. Raises ListenError, and
    EngineDeadError when the engine is not started any more."""
    services: Services = cast("FastAPI", server.config.app).state.services
    given_up = asyncio.ensure_future(engine.wait_given_up())
    given_up.add_done_callback(lambda _: server.stop())
    try:
        await server.serve([sock])
    finally:
        given_up.cancel()
        outcomes = await asyncio.gather(given_up, return_exceptions=True)
        await asyncio.to_thread(services.watch.close)
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]
    return server.signal_received
