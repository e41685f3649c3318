"""Admission over the wire: who may wait, who is turned away and told when to come again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from byte_tokenizer import byte_tokenizer
from fake_engine import INFO, FakeEngine
from live_app import MODEL, live_app

from server.settings import Settings
from server.tokenizer import Tokenizer

URL = "/v1/completions"
BODY: dict[str, Any] = {"model": MODEL, "prompt": "p", "max_tokens": 4}
A, B = {"Authorization": "Bearer sk-a"}, {"Authorization": "Bearer sk-b"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text("sk-a name=a\nsk-b name=b\n")
    return file


Posts = list[asyncio.Task[httpx.Response]]


async def queue_up(
    client: httpx.AsyncClient, engine: FakeEngine, count: int, **options: Any
) -> Posts:
    """So many requests that the engine has and does not answer."""
    before = len(engine.requests)
    body = BODY | options.pop("body", {})
    posts = [asyncio.create_task(client.post(URL, json=body, **options)) for _ in range(count)]
    await engine.until(lambda: len(engine.requests) == before + count)
    return posts


async def statuses(engine: FakeEngine, posts: Posts) -> list[int]:
    """Those of all, in order, once the engine has done its work."""
    while not engine.is_idle:
        engine.step()
    return [(await post).status_code for post in posts]


def is_overloaded(response: httpx.Response) -> bool:
    if response.status_code != 503:
        return False
    error = response.json()["error"]
    assert error["type"] == "service_unavailable_error"
    assert error["code"] == "server_is_overloaded"
    assert int(response.headers["retry-after"]) >= 1
    assert int(response.headers["retry-after-ms"]) >= 1000
    assert response.headers["x-should-retry"] == "true"
    return True


@pytest.mark.parametrize("stream", [False, True])
async def test_the_queue_is_bounded_by_requests(stream: bool) -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(max_queue_requests=3)) as client:
        posts = await queue_up(client, engine, 3, body={"stream": stream})
        for _ in range(5):
            assert is_overloaded(await client.post(URL, json=BODY | {"stream": stream}))
        assert len(engine.requests) == 3
        engine.step()  # a first token for each: nobody waits
        posts += await queue_up(client, engine, 3)
        assert is_overloaded(await client.post(URL, json=BODY))
        assert await statuses(engine, posts) == [200] * 6
        posts = await queue_up(client, engine, 3)
        assert await statuses(engine, posts) == [200] * 3


async def test_the_queue_is_bounded_by_tokens() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(max_queue_tokens=100)) as client:
        posts = await queue_up(client, engine, 2, body={"prompt": "x" * 20, "n": 2})
        large = {"prompt": "x" * 60, "max_tokens": 10}
        for body in (large, large | {"prompt": [1] * 60}, {"max_tokens": 60}, {"n": 12}):
            assert is_overloaded(await client.post(URL, json=BODY | body)), body
        posts += await queue_up(client, engine, 1)
        assert await statuses(engine, posts) == [200] * 3


async def test_an_empty_queue_takes_any_request() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(max_queue_tokens=10)) as client:
        for body in ({"max_tokens": 500}, {"prompt": "x" * 900}):
            posts = await queue_up(client, engine, 1, body=body)
            assert is_overloaded(await client.post(URL, json=BODY))
            assert await statuses(engine, posts) == [200]


async def test_by_default_the_cache_may_be_filled_eight_times() -> None:
    engine = FakeEngine(manual=True)
    in_one = INFO.num_blocks * INFO.block_size // 4  # one request's; the model holds no more
    async with live_app(engine) as client:
        posts = await queue_up(client, engine, 32, body={"max_tokens": in_one - 8})
        response = await client.post(URL, json=BODY | {"max_tokens": 32 * 8})
        assert is_overloaded(response)
        await drop(posts)


async def drop(posts: Posts) -> None:
    for post in posts:
        post.cancel()
    await asyncio.gather(*posts, return_exceptions=True)


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_makes_room(stream: bool) -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(max_queue_requests=2)) as client:
        posts = await queue_up(client, engine, 2, body={"stream": stream, "n": 2})
        await drop(posts)
        await engine.until(lambda: engine.is_idle)
        posts = await queue_up(client, engine, 2)
        assert await statuses(engine, posts) == [200] * 2


async def test_a_refused_body_makes_room() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(max_queue_requests=1)) as client:
        for _ in range(3):
            response = await client.post(URL, json=BODY | {"prompt": "x" * 5000})
            assert response.status_code == 400
            assert (await client.post(URL, json=BODY | {"prompt": [999]})).status_code == 400
        engine.is_ready = False
        assert (await client.post(URL, json=BODY)).status_code == 503
        engine.is_ready = True
        assert await statuses(engine, await queue_up(client, engine, 1)) == [200]


class CountingTokenizer:
    """Counts the texts that are encoded, and otherwise is another one."""

    def __init__(self) -> None:
        self.num_encoded = 0
        self._inner = byte_tokenizer()

    def __getattr__(self, name: str) -> Any:
        if name == "encode":
            self.num_encoded += 1
        return getattr(self._inner, name)


async def test_a_refusal_is_quick_and_tokenizes_nothing() -> None:
    engine = FakeEngine(manual=True)
    tokenizer: Tokenizer = CountingTokenizer()  # type: ignore[assignment]
    async with live_app(engine, Settings(max_queue_requests=50), tokenizer) as client:
        posts = await queue_up(client, engine, 50)
        num_encoded = tokenizer.num_encoded  # type: ignore[attr-defined]
        assert num_encoded == 50
        times = []
        for _ in range(20):
            start = time.monotonic()
            assert is_overloaded(await client.post(URL, json=BODY | {"prompt": "x" * 4000}))
            times.append(time.monotonic() - start)
        assert sorted(times)[10] < 0.05
        assert tokenizer.num_encoded == num_encoded  # type: ignore[attr-defined]
        await drop(posts)


# Sharing the queue.


async def test_a_full_queue_makes_room_for_who_has_less_in_it(keys: Path) -> None:
    engine = FakeEngine(manual=True)
    settings = Settings(max_queue_requests=6, api_key_file=keys)
    async with live_app(engine, settings) as client:
        many = await queue_up(client, engine, 6, headers=A)
        assert is_overloaded(await client.post(URL, json=BODY, headers=A))
        few = await queue_up(client, engine, 3, headers=B)
        assert is_overloaded(await client.post(URL, json=BODY, headers=B))  # as many as A has
        # The newest of A's gave up, without a token computed for them.
        assert sorted(await statuses(engine, many + few)) == [200] * 6 + [503] * 3
        newest = {request.request_id for request in engine.requests[3:6]}
        assert {request_id for request_id, _ in engine.aborts} == newest
        for post in many:
            assert (await post).status_code == 200 or is_overloaded(await post)


async def test_tokens_make_room_too(keys: Path) -> None:
    engine = FakeEngine(manual=True)
    settings = Settings(max_queue_tokens=100, api_key_file=keys)
    async with live_app(engine, settings) as client:
        many = await queue_up(client, engine, 5, headers=A, body={"max_tokens": 18})
        few = await queue_up(client, engine, 1, headers=B, body={"max_tokens": 35})
        response = await client.post(URL, json=BODY | {"max_tokens": 60}, headers=B)
        assert is_overloaded(response)  # it would then have more than A
        assert sorted(await statuses(engine, many + few)) == [200] * 4 + [503] * 2
        assert await statuses(engine, few) == [200]


async def test_who_is_pushed_out_may_come_again(tmp_path: Path) -> None:
    """Nothing was done for it, so it counts for no limit."""
    file = tmp_path / "keys"
    file.write_text("sk-a name=a rpm=3 tpm=100\nsk-b name=b\n")
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(max_queue_requests=2, api_key_file=file)) as client:
        posts = await queue_up(client, engine, 2, headers=A)
        posts += await queue_up(client, engine, 1, headers=B)
        assert is_overloaded(await posts[1])
        await statuses(engine, posts)
        posts = await queue_up(client, engine, 2, headers=A, body={"max_tokens": 8})
        assert await statuses(engine, posts) == [200] * 2
        response = await client.post(URL, json=BODY, headers=A)
        assert response.status_code == 429


async def test_a_prompt_that_turns_out_too_long_for_the_queue() -> None:
    """It finds no room either, counts for no limit, and leaves nothing behind."""
    engine = FakeEngine(manual=True)
    settings = Settings(max_queue_tokens=200, requests_per_minute=2)
    async with live_app(engine, settings) as client:
        posts = await queue_up(client, engine, 1)
        for _ in range(3):
            assert is_overloaded(await client.post(URL, json=BODY | {"prompt": "x" * 900}))
        posts += await queue_up(client, engine, 1)
        assert await statuses(engine, posts) == [200] * 2


async def test_a_stream_that_gives_up_late_says_so(keys: Path) -> None:
    engine = FakeEngine(manual=True)
    settings = Settings(max_queue_requests=2, api_key_file=keys, sse_keep_alive_seconds=0.02)
    async with live_app(engine, settings) as client:
        posts = await queue_up(client, engine, 1, headers=A)
        body = BODY | {"stream": True}
        async with client.stream("POST", URL, json=body, headers=A) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == ": keep-alive"
            posts += await queue_up(client, engine, 1, headers=B)
            rest = [line async for line in lines if line not in ("", ": keep-alive")]
            assert '"code":"server_is_overloaded"' in rest[0]
            assert rest[1:] == ["data: [DONE]"]
        assert await statuses(engine, posts) == [200] * 2


async def test_nobody_with_a_key_goes_before_the_others(keys: Path) -> None:
    engine = FakeEngine()
    async with live_app(engine, Settings(api_key_file=keys)) as client:
        response = await client.post(URL, json=BODY | {"priority": -1}, headers=A)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "priority")
        for priority in (0, 1):
            response = await client.post(URL, json=BODY | {"priority": priority}, headers=A)
            assert response.status_code == 200
    assert [request.priority for request in engine.requests] == [0, 1]


async def test_the_engine_is_told_whose_request_it_is(keys: Path) -> None:
    engine = FakeEngine()
    async with live_app(engine, Settings(api_key_file=keys)) as client:
        for headers in (A, B):
            assert (await client.post(URL, json=BODY, headers=headers)).status_code == 200
    assert [request.tenant for request in engine.requests] == ["a", "b"]


async def test_without_keys_it_is_the_address() -> None:
    engine = FakeEngine()
    async with live_app(engine) as client:
        await client.post(URL, json=BODY)
        proxied = {"X-Forwarded-For": "2001:db8:1:2:3:4:5:6"}  # believed on the loopback only
        await client.post(URL, json=BODY, headers=proxied)
    assert [request.tenant for request in engine.requests] == ["127.0.0.1", "2001:db8:1:2::/64"]


# The time that a request may take.


def is_timed_out(response: httpx.Response) -> bool:
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "request_timeout")
    return response.status_code == 504


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_is_never_started_ends(stream: bool) -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(request_timeout=0.2)) as client:
        response = await client.post(URL, json=BODY | {"stream": stream, "n": 2})
        assert is_timed_out(response)
        assert response.headers["retry-after"]  # it may come to its turn another time
        assert "x-should-retry" not in response.headers
        await engine.until(lambda: engine.is_idle)
        assert len(engine.aborts) == 1


async def test_an_answer_that_takes_too_long_ends() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(request_timeout=0.5)) as client:
        post = (await queue_up(client, engine, 1))[0]
        engine.step()
        response = await post
        assert is_timed_out(response)
        assert response.headers["x-should-retry"] == "false"
        assert engine.is_idle


async def test_a_stream_that_takes_too_long_ends_with_an_error_event() -> None:
    engine = FakeEngine(manual=True)
    async with live_app(engine, Settings(request_timeout=0.5)) as client:
        post = (await queue_up(client, engine, 1, body={"stream": True}))[0]
        engine.step()
        response = await post
        text, error, done, _ = response.text.split("\n\n")
        assert response.status_code == 200
        assert text.startswith('data: {"id":')
        assert '"code":"request_timeout"' in error
        assert done == "data: [DONE]"
        assert engine.is_idle


async def test_an_answer_in_time_is_left_alone() -> None:
    engine = FakeEngine()
    for timeout in (0, 30):
        async with live_app(engine, Settings(request_timeout=timeout)) as client:
            assert (await client.post(URL, json=BODY)).status_code == 200
