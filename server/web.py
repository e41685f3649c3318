"""The HTTP side of `octavo serve`: the application and its server, put together.

Imported while the engine starts: a web framework takes long to import, and the engine to start.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from fastapi import FastAPI

from engine import Checkpoint, Engine, EngineClient
from server.api_keys import ApiKeys
from server.app import create_app
from server.hosts import AllowedHosts
from server.http_server import HttpServer
from server.model_facts import model_facts
from server.services import Services
from server.settings import Settings
from server.tokenizer import load_tokenizer


def build_server(
    engine: Engine,
    checkpoint: Checkpoint,
    settings: Settings,
    model_names: Sequence[str],
    api_keys: ApiKeys,
    hosts: AllowedHosts,
    on_ready: Callable[[], None],
) -> HttpServer:
    """A server for an engine that may be starting still. Raises CheckpointError."""
    data = checkpoint.tokenizer
    if settings.generation_config == "auto":
        data = data.ending_at(checkpoint.generation.eos_token_ids)
    tokenizer = load_tokenizer(data)
    facts = model_facts(checkpoint, _source(settings, checkpoint))
    app = create_app(engine, tokenizer, settings, model_names, api_keys=api_keys, facts=facts)
    services: Services = app.state.services
    return HttpServer(
        app,
        on_ready,
        settings.log_level,
        hosts=hosts,
        observer=services.watch.observer,
        stall_timeout=settings.stream_stall_timeout,
        max_connections=settings.max_connections,
        requests=services.queue,
        drain_timeout=settings.drain_timeout,
    )


def _source(settings: Settings, checkpoint: Checkpoint) -> str:
    """A path on this machine is nobody's business: its last part says enough."""
    return checkpoint.path.name if Path(settings.model).exists() else settings.model


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
        services.workers.close()
        await asyncio.to_thread(services.watch.close)
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]
    return server.signal_received
