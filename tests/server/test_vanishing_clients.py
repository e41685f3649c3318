"""Clients that go away, over the real scheduler in its own process: pages are free at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_engine_process import LIMITS
from live_app import MODEL, live_app

from engine import EngineClient, EngineConfig, EngineStats
from server.request_queue import RequestQueue
from server.settings import Settings

URL = "/v1/completions"
SETTINGS = Settings(max_queue_tokens=10**9)
ENDLESS: dict[str, Any] = {"model": MODEL, "prompt": [1] * 100, "max_tokens": 100_000}


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EngineClient]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    client = EngineClient(EngineConfig(""), module="fake_engine_process")
    await client.start()
    yield client
    await client.close()


@pytest.mark.parametrize(
    ("count", "fields"),
    [
        (5, {"stream": True}),
        (5, {"stream": False}),
        (5, {"stream": True, "n": 4}),
        (5, {"stream": False, "n": 4, "prompt": [[1] * 50, [2] * 50]}),
        (2 * LIMITS.max_num_seqs, {"stream": False}),  # half of them only wait
        (40, {"stream": True, "n": 4}),
    ],
    ids=["streams", "answers", "choices", "prompts", "queued answers", "queued choices"],
)
async def test_pages_are_free_at_once(
    engine: EngineClient, count: int, fields: dict[str, Any]
) -> None:
    queues: list[RequestQueue] = []
    async with live_app(engine, SETTINGS, on_queue=queues.append) as client:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=client.base_url, limits=limits, timeout=120
        ) as leaving:
            posts = [
                asyncio.create_task(leaving.post(URL, json=ENDLESS | fields)) for _ in range(count)
            ]
            async with asyncio.timeout(60):
                while queues[0].num_open < count:  # noqa: ASYNC110 - counts set no event
                    await asyncio.sleep(0.01)
                while (await engine.stats()).num_running == 0:
                    pass
            for post in posts:
                post.cancel()
            await asyncio.gather(*posts, return_exceptions=True)
        await until_all_is_free(engine, queues[0])


async def test_pipelined_requests_whose_client_leaves(engine: EngineClient) -> None:
    """The answer that is being made ends, though others wait for it on the same connection."""
    queues: list[RequestQueue] = []
    async with live_app(engine, SETTINGS, on_queue=queues.append) as client:
        assert client.base_url.port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        body = json.dumps(ENDLESS).encode()
        head = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        request = head.encode() + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        writer.write(request)
        async with asyncio.timeout(60):
            while (await engine.stats()).num_running == 0:
                pass
        writer.write(request)
        await asyncio.sleep(0.1)  # so that it is not seen together with the end
        writer.close()
        await until_all_is_free(engine, queues[0])
        assert (await engine.stats()).num_generated_tokens < ENDLESS["max_tokens"]
        assert (await client.get("/health")).status_code == 200


async def until_all_is_free(engine: EngineClient, queue: RequestQueue) -> None:
    async with asyncio.timeout(60):
        while queue.num_open:  # noqa: ASYNC110 - counts set no event
            await asyncio.sleep(0.01)
    # The engine answers in order, after its step; a launch may have been under way.
    await engine.stats()
    stats: EngineStats = await engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_blocks_used) == (0, 0, 0)
    assert (queue.num_waiting, queue.num_waiting_tokens) == (0, 0)
