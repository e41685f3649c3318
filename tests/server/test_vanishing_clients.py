"""Clients that go away, over the real scheduler in its own process: pages are free at once."""

from __future__ import annotations

import asyncio
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
ENDLESS = {"model": MODEL, "prompt": [1] * 100, "max_tokens": 100_000}


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
    monkeypatch: pytest.MonkeyPatch, count: int, fields: dict[str, Any]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    engine = EngineClient(EngineConfig(""), module="fake_engine_process")
    await engine.start()
    queues: list[RequestQueue] = []
    settings = Settings(max_queue_tokens=10**9)
    try:
        async with live_app(engine, settings, on_queue=queues.append) as client:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(
                base_url=client.base_url, limits=limits, timeout=120
            ) as leaving:
                posts = [
                    asyncio.create_task(leaving.post(URL, json=ENDLESS | fields))
                    for _ in range(count)
                ]
                async with asyncio.timeout(60):
                    while queues[0].num_open < count:  # noqa: ASYNC110 - counts set no event
                        await asyncio.sleep(0.01)
                    while (await engine.stats()).num_running == 0:
                        pass
                for post in posts:
                    post.cancel()
                await asyncio.gather(*posts, return_exceptions=True)
            async with asyncio.timeout(60):
                while queues[0].num_open:  # noqa: ASYNC110 - counts set no event
                    await asyncio.sleep(0.01)
            # The engine answers in order, after its step; a launch may have been under way.
            await engine.stats()
            stats: EngineStats = await engine.stats()
            assert (stats.num_running, stats.num_waiting, stats.num_blocks_used) == (0, 0, 0)
            assert (queues[0].num_waiting, queues[0].num_waiting_tokens) == (0, 0)
    finally:
        await engine.close()
