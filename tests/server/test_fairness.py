"""One client's many requests beside another's one: over HTTP and the real scheduler."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from engine_children import ENDLESS
from fake_engine_process import LIMITS
from live_app import MODEL, live_app

from engine import EngineClient, EngineConfig
from server.request_queue import RequestQueue
from server.settings import Settings

MANY = 500


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EngineClient]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    engine = EngineClient(EngineConfig(""), module="fake_engine_process")
    await engine.start()
    yield engine
    await engine.close()


class Client:
    """A tenant, by its key or by its address, and the answers of all in the order they came."""

    def __init__(self, server: httpx.AsyncClient, key: str, address: str, order: list[str]) -> None:
        self._url = server.base_url
        self._key = key
        self._address = address
        self._order = order

    async def post(self, max_tokens: int = 20) -> int:
        body = {"model": MODEL, "prompt": [1, 2, 3], "max_tokens": max_tokens}
        payload = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(
            self._url.host, self._url.port, local_addr=(self._address, 0)
        )
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nAuthorization: Bearer %s\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (self._key.encode(), len(payload), payload)
        )
        try:
            answer = await reader.read()
        finally:
            writer.close()
        status = int(answer.split(b" ", 2)[1])
        if status == 200:
            self._order.append(self._key)
        return status


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - counts set no event
            await asyncio.sleep(0.005)


async def drop(posts: list[asyncio.Task[int]]) -> None:
    for post in posts:
        post.cancel()
    await asyncio.gather(*posts, return_exceptions=True)


@pytest.mark.parametrize("has_keys", [True, False], ids=["keys", "addresses"])
async def test_one_request_beside_500_of_another(engine: EngineClient, has_keys: bool) -> None:
    queues: list[RequestQueue] = []
    settings = Settings(api_key="sk-a,sk-b" if has_keys else None, max_queue_tokens=10**9)
    async with live_app(engine, settings, on_queue=queues.append) as server:
        order: list[str] = []
        a = Client(server, "sk-a", "127.0.0.1", order)
        b = Client(server, "sk-b", "127.0.0.1" if has_keys else "127.0.0.2", order)
        posts = [asyncio.create_task(a.post(max_tokens=300)) for _ in range(MANY)]
        await until(lambda: queues[0].num_open + len(order) == MANY)
        num_before = len(order)
        assert await b.post() == 200
        # Those that run when it comes, and those that get their rows together with it.
        assert order.index("sk-b") <= num_before + 2 * LIMITS.max_num_seqs
        assert MANY - len(order) > LIMITS.max_num_seqs, "it came too late to tell"
        await drop(posts)


async def test_one_request_where_another_has_filled_the_queue(engine: EngineClient) -> None:
    queues: list[RequestQueue] = []
    settings = Settings(api_key="sk-a,sk-b", max_queue_requests=30, max_queue_tokens=10**9)
    async with live_app(engine, settings, on_queue=queues.append) as server:
        a, b = (Client(server, key, "127.0.0.1", []) for key in ("sk-a", "sk-b"))
        posts: list[asyncio.Task[int]] = []
        while len(posts) < LIMITS.max_num_seqs:
            posts.extend(asyncio.create_task(a.post(ENDLESS // 10)) for _ in range(16))
            await until(lambda: queues[0].num_open == len(posts) and not queues[0].num_waiting)
        posts += [asyncio.create_task(a.post(ENDLESS // 10)) for _ in range(50)]
        await until(lambda: sum(post.done() for post in posts) == 20)
        one = asyncio.create_task(b.post())
        await until(lambda: sum(post.done() for post in posts) == 21)
        assert {post.result() for post in posts if post.done()} == {503}
        assert not one.done(), "all rows are in use"
        posts[0].cancel()
        assert await one == 200
        assert sum(post.done() for post in posts) == 22, "it came before all who wait"
        await drop(posts)
