"""The application on a real socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from byte_tokenizer import byte_tokenizer
from starlette.types import ASGIApp

from engine import Engine
from server.api_keys import load_api_keys
from server.app import create_app
from server.http_server import HttpServer
from server.listen import bind, socket_url
from server.settings import Settings
from server.tokenizer import Tokenizer
from server.wire.limits import DRAIN_SECONDS, RECEIVE_DEADLINE_SECONDS

MODEL = "fake-model"


@asynccontextmanager
async def live_app(
    engine: Engine,
    settings: Settings | None = None,
    tokenizer: Tokenizer | None = None,
    *,
    receive_deadline: float = RECEIVE_DEADLINE_SECONDS,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on a free port. The server has ended when this does."""
    settings = settings or Settings()
    api_keys = load_api_keys(settings.api_key, settings.api_key_file)
    app = create_app(
        engine, tokenizer or byte_tokenizer(), settings, [MODEL, "alias"], api_keys=api_keys
    )
    async with serving(app, receive_deadline, settings.drain_timeout) as client:
        yield client


@asynccontextmanager
async def serving(
    app: ASGIApp, receive_deadline: float, drain_timeout: int = DRAIN_SECONDS
) -> AsyncIterator[httpx.AsyncClient]:
    """As `live_app`, for any application."""
    ready = asyncio.Event()
    server = HttpServer(
        app,
        on_ready=ready.set,
        log_level="info",
        receive_deadline=receive_deadline,
        drain_timeout=drain_timeout,
    )
    with bind("127.0.0.1", 0) as sock:
        serving = asyncio.ensure_future(server.serve([sock]))
        await ready.wait()
        async with httpx.AsyncClient(base_url=socket_url(sock), timeout=120) as client:
            yield client
        server.should_exit = True
        await serving
