"""The application on a real socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from byte_tokenizer import byte_tokenizer
from fastapi import FastAPI
from starlette.types import ASGIApp

from engine import Engine
from server.api_keys import load_api_keys
from server.app import create_app
from server.hosts import ANY_HOST, AllowedHosts
from server.http_server import HttpServer
from server.listen import bind, socket_url
from server.model_facts import ModelFacts
from server.observe.watch import Watch
from server.request_queue import RequestQueue
from server.settings import Settings
from server.tokenizer import Tokenizer
from server.wire.limits import RECEIVE_DEADLINE_SECONDS

MODEL = "fake-model"


def new_app(
    engine: Engine,
    settings: Settings | None = None,
    tokenizer: Tokenizer | None = None,
    *,
    facts: ModelFacts | None = None,
    new_watch: Callable[[Engine, Settings, str], Watch] = Watch,
) -> FastAPI:
    """The application, with the keys of its settings."""
    settings = settings or Settings()
    return create_app(
        engine,
        tokenizer or byte_tokenizer(),
        settings,
        [MODEL, "alias"],
        api_keys=load_api_keys(settings.api_key, settings.api_key_file),
        facts=facts,
        new_watch=new_watch,
    )


@asynccontextmanager
async def live_app(
    engine: Engine,
    settings: Settings | None = None,
    tokenizer: Tokenizer | None = None,
    *,
    hosts: AllowedHosts = ANY_HOST,
    receive_deadline: float = RECEIVE_DEADLINE_SECONDS,
    on_queue: Callable[[RequestQueue], None] | None = None,
    facts: ModelFacts | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on a free port. The server has ended when this does. `on_queue` is given
    its queue, for tests that look into it."""
    settings = settings or Settings()
    app = new_app(engine, settings, tokenizer, facts=facts)
    if on_queue is not None:
        on_queue(app.state.services.queue)
    server = {
        "hosts": hosts,
        "observer": app.state.services.watch.observer,
        "stall_timeout": settings.stream_stall_timeout,
        "max_connections": settings.max_connections,
        "requests": app.state.services.queue,
        "drain_timeout": settings.drain_timeout,
    }
    async with serving(app, receive_deadline, log_level=settings.log_level, **server) as client:
        yield client
    await asyncio.to_thread(app.state.services.watch.close)


@asynccontextmanager
async def serving(
    app: ASGIApp,
    receive_deadline: float,
    on_server: Callable[[HttpServer], None] = lambda server: None,
    *,
    log_level: str = "info",
    **options: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """As `live_app`, for any application. `on_server` is given the server, which has `options`."""
    ready = asyncio.Event()
    server = HttpServer(
        app, on_ready=ready.set, log_level=log_level, receive_deadline=receive_deadline, **options
    )
    on_server(server)
    with bind("127.0.0.1", 0) as sock:
        serving = asyncio.ensure_future(server.serve([sock]))
        await ready.wait()
        async with httpx.AsyncClient(base_url=socket_url(sock), timeout=120) as client:
            yield client
        server.should_exit = True
        await serving
