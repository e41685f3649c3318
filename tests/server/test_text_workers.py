"""Long texts: worked on beside the event loop, a few at a time, and not without end."""

from __future__ import annotations

import asyncio
import threading

import pytest
from byte_tokenizer import byte_tokenizer
from fake_engine import FakeEngine
from live_app import MODEL, live_app

from server.request_queue import RequestQueue
from server.settings import Settings
from server.tenants import Tenant
from server.text_workers import TextWorkers
from server.tokenizer import Tokenizer
from server.wire.errors import ApiError

A = Tenant("a")


async def test_so_many_at_a_time_and_so_many_waiting() -> None:
    workers = TextWorkers(num_threads=2, max_waiting=3)
    may_end = threading.Event()
    running: list[int] = []

    def work(number: int) -> int:
        running.append(number)
        assert may_end.wait(30)
        return number

    texts = [asyncio.create_task(workers.run(A, lambda n=n: work(n))) for n in range(5)]
    async with asyncio.timeout(20):
        while len(running) < 2:  # noqa: ASYNC110 - threads set no event of asyncio
            await asyncio.sleep(0.01)
    with pytest.raises(ApiError) as caught:
        await workers.run(A, lambda: 5)
    assert (caught.value.status, caught.value.code) == (503, "server_is_overloaded")
    assert len(running) == 2
    may_end.set()
    assert [await text for text in texts] == list(range(5))
    assert await workers.run(A, lambda: 6) == 6

    def fail() -> None:
        raise ZeroDivisionError

    for _ in range(10):
        with pytest.raises(ZeroDivisionError):
            await workers.run(A, fail)


async def test_what_has_begun_counts_until_it_is_done() -> None:
    """Also when nobody waits for it any more: its thread cannot be stopped."""
    workers = TextWorkers(num_threads=1, max_waiting=1)
    may_end = threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        assert may_end.wait(30)
        done.append(number)

    texts = [asyncio.create_task(workers.run(A, lambda n=n: work(n))) for n in range(2)]
    await asyncio.sleep(0)
    for text in texts:
        text.cancel()
    await asyncio.gather(*texts, return_exceptions=True)
    waiting = asyncio.create_task(workers.run(A, lambda: work(2)))
    await asyncio.sleep(0)
    with pytest.raises(ApiError):
        await workers.run(A, lambda: None)
    may_end.set()
    await asyncio.wait_for(waiting, 30)
    assert done == [0, 2]


async def test_the_end_does_not_wait_for_texts_that_wait() -> None:
    """Else the process would go on after its end until all of them were worked on."""
    workers = TextWorkers(num_threads=1, max_waiting=5)
    may_end = threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        assert may_end.wait(30)
        done.append(number)

    texts = [asyncio.create_task(workers.run(A, lambda n=n: work(n))) for n in range(5)]
    await asyncio.sleep(0)
    workers.close()
    may_end.set()
    ends = await asyncio.wait_for(asyncio.gather(*texts, return_exceptions=True), 30)
    assert done == [0]
    assert [type(end) for end in ends] == [type(None), *[asyncio.CancelledError] * 4]


class SlowTokenizer:
    """Takes its time until it is told to go on, and is otherwise another one."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.num_started = 0
        self._inner = byte_tokenizer()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        if len(text) > 1000:
            self.num_started += 1
            assert self.may_go_on.wait(30)
        return self._inner.encode(text, add_special_tokens)


async def test_others_are_answered_beside_long_texts() -> None:
    engine = FakeEngine()
    slow = SlowTokenizer()
    tokenizer: Tokenizer = slow  # type: ignore[assignment]
    async with live_app(engine, tokenizer=tokenizer) as client:
        long = {"prompt": "x" * 20_000}
        texts = [asyncio.create_task(client.post("/tokenize", json=long)) for _ in range(6)]
        async with asyncio.timeout(20):
            while slow.num_started < 4:  # noqa: ASYNC110 - threads set no event of asyncio
                await asyncio.sleep(0.01)
        body = {"model": MODEL, "prompt": "x", "max_tokens": 2}
        for _ in range(3):
            assert (await client.post("/v1/completions", json=body)).status_code == 200
        assert slow.num_started == 4
        slow.may_go_on.set()
        for text in texts:
            assert (await text).status_code == 200


async def test_a_long_prompt_does_not_wait_for_the_many_of_another() -> None:
    slow = SlowTokenizer()
    tokenizer: Tokenizer = slow  # type: ignore[assignment]
    queues: list[RequestQueue] = []
    ends: list[str] = []
    settings = Settings(api_key="sk-a,sk-b")
    body = {"model": MODEL, "prompt": "x" * 20_000, "truncate_prompt_tokens": 4, "max_tokens": 1}
    async with live_app(FakeEngine(), settings, tokenizer, on_queue=queues.append) as client:

        async def post(key: str) -> None:
            headers = {"Authorization": f"Bearer {key}"}
            response = await client.post("/v1/completions", json=body, headers=headers)
            assert response.status_code == 200
            ends.append(key)

        posts = [asyncio.create_task(post("sk-a")) for _ in range(60)]
        async with asyncio.timeout(30):
            while queues[0].num_open < 60:  # noqa: ASYNC110 - counts set no event
                await asyncio.sleep(0.01)
            posts += [asyncio.create_task(post("sk-b")) for _ in range(2)]
            while queues[0].num_open < 62:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        slow.may_go_on.set()
        await asyncio.gather(*posts)
    # Four are under way, and of those that begin with them some may be quicker.
    assert max(position for position, key in enumerate(ends) if key == "sk-b") < 30
