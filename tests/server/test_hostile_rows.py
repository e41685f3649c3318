"""Every row of `hostile_..._rows.py` against the running server, over a bare socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import NamedTuple, get_args

import httpx
import pytest
import pytest_asyncio
from fake_engine import FakeEngine
from hostile_field_rows import FIELD_ROWS
from hostile_rows import GOOD, GOOD_BODY, KEY, ROWS, URL, Row, ServerName
from hostile_wire_rows import WIRE_ROWS
from live_app import live_app
from pydantic import SecretStr
from raw_http import connect

from server.hosts import ANY_HOST, AllowedHosts
from server.request_queue import RequestQueue
from server.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


# What the best of requests is answered by servers that are in some trouble.
AT_BEST = {"loading": 503, "full": 503, "draining": 503, "limited": 429}


class Server(NamedTuple):
    engine: FakeEngine
    client: httpx.AsyncClient


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[dict[str, Server]]:
    """The servers that a row can name."""
    async with AsyncExitStack() as stack:
        running = {}
        for name in get_args(ServerName):
            engine = FakeEngine(manual=name == "full")
            engine.is_ready = name != "loading"
            settings = Settings(
                api_key=SecretStr(KEY) if name == "with a key" else None,
                max_queue_requests=1 if name == "full" else 512,
                tokens_per_minute=1 if name == "limited" else None,
                drain_timeout=0,
            )
            deadline = 0.3 if name == "hasty" else 30.0
            queues: list[RequestQueue] = []
            app = live_app(
                engine,
                settings,
                hosts=AllowedHosts(()) if name == "local" else ANY_HOST,
                receive_deadline=deadline,
                on_queue=queues.append,
            )
            running[name] = Server(engine, await stack.enter_async_context(app))
            if name == "draining":
                queues[0].start_draining()
        full = running["full"]
        waiting = asyncio.create_task(full.client.post(URL, json=GOOD))
        await full.engine.until(lambda: not full.engine.is_idle)
        yield running
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize(
    "row", WIRE_ROWS + ROWS + FIELD_ROWS, ids=lambda row: f"{row.number} {row.name}"
)
async def test_a_row(
    servers: dict[str, Server], row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    engine, client = servers[row.server]
    num_requests = len(engine.requests)
    async with connect(client) as connection:
        connection.send(row.request)
        answer = await connection.answer(is_head=row.request.startswith(b"HEAD "))
        if row.headers.get("connection") == "close":
            assert await connection.rest() == b""
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert answer.status == row.status, answer.body[:1000]
    assert answer.headers.items() >= row.headers.items()
    assert row.part in answer.body.decode()
    if row.status != 200:
        assert len(engine.requests) == num_requests  # nothing was computed for it
        assert len(answer.body) < 1000
        if not row.request.startswith(b"HEAD "):
            error = answer.error()
            found = (error["type"], error["param"], error["code"])
            assert found == (row.type, row.param, row.code), error["message"]
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    response = await client.post(URL, content=GOOD_BODY, headers=headers)
    assert response.status_code == AT_BEST.get(row.server, 200)
