"""The whole way, HTTP to the built-in model in its own process and back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
import pytest
import pytest_asyncio
from live_app import MODEL, live_app

from engine import EngineClient, EngineConfig, EngineStats, open_checkpoint
from server.tokenizer import load_tokenizer

URL = "/v1/completions"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(builtin_model: Path) -> AsyncIterator[EngineClient]:
    client = EngineClient(EngineConfig(str(builtin_model), dtype="float32", max_model_len=1024))
    await client.start()
    yield client
    await client.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(engine: EngineClient, builtin_model: Path) -> AsyncIterator[httpx.AsyncClient]:
    tokenizer = load_tokenizer(open_checkpoint(builtin_model).tokenizer)
    async with live_app(engine, tokenizer=tokenizer) as client:
        yield client


async def complete(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(URL, json={"model": MODEL, "temperature": 0} | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def events(text: str) -> list[dict[str, Any]]:
    *events, done, nothing = text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def until(engine: EngineClient, condition: Callable[[EngineStats], bool]) -> None:
    """Ask the engine, which answers once for each of its steps, until it is so."""
    async with asyncio.timeout(60):
        while not condition(await engine.stats()):
            pass


async def test_real_english(client: httpx.AsyncClient) -> None:
    answer = await complete(client, prompt="The capital of France is", max_tokens=8)
    assert "Paris" in answer["choices"][0]["text"]


async def test_the_joined_stream_is_the_answer(client: httpx.AsyncClient) -> None:
    fields: dict[str, Any] = {
        "model": MODEL,
        "prompt": ["The sea is", "Once upon a time 世界"],
        "n": 2,
        "temperature": 1,
        "seed": 7,
        "max_tokens": 12,
        "logprobs": 2,
        "echo": True,
        "stop": ["\n\n"],
    }
    answer = (await client.post(URL, json=fields)).json()
    streamed = await client.post(URL, json=fields | {"stream": True})
    texts = ["", "", "", ""]
    tokens: list[list[str]] = [[], [], [], []]
    for chunk in events(streamed.text):
        for piece in chunk["choices"]:
            texts[piece["index"]] += piece["text"]
            tokens[piece["index"]] += piece["logprobs"]["tokens"]
    assert texts == [choice["text"] for choice in answer["choices"]]
    assert tokens == [choice["logprobs"]["tokens"] for choice in answer["choices"]]
    for choice in answer["choices"]:
        offsets = choice["logprobs"]["text_offset"]
        for token, offset in zip(choice["logprobs"]["tokens"], offsets, strict=True):
            if not token.startswith("bytes:"):
                assert choice["text"].startswith(token, offset)


async def test_choices_without_temperature_are_equal(client: httpx.AsyncClient) -> None:
    answer = await complete(client, prompt="The sea is", n=3, max_tokens=8)
    assert len({choice["text"] for choice in answer["choices"]}) == 1
    assert answer["usage"]["completion_tokens"] == 24


async def test_scoring_agrees_with_generating(client: httpx.AsyncClient) -> None:
    made = await complete(client, prompt="The sea is", max_tokens=8, logprobs=0)
    text = "The sea is" + made["choices"][0]["text"]
    for n in (1, 2):
        scored = await complete(client, prompt=text, max_tokens=0, echo=True, logprobs=1, n=n)
        for choice in scored["choices"]:
            assert (choice["text"], choice["finish_reason"]) == (text, "length")
            logprobs = choice["logprobs"]
            assert logprobs["token_logprobs"][0] is None
            assert logprobs["token_logprobs"][-8:] == pytest.approx(
                made["choices"][0]["logprobs"]["token_logprobs"], abs=1e-3
            )
        assert scored["usage"]["completion_tokens"] == 0


@pytest.mark.slow
async def test_a_seeded_request_draws_the_same_in_company(client: httpx.AsyncClient) -> None:
    fields = {"prompt": "The sea is", "temperature": 1, "seed": 3, "max_tokens": 8}
    alone = await complete(client, **fields)
    company = [
        complete(client, prompt=f"Number {i} is", temperature=1, max_tokens=8) for i in range(15)
    ]
    together, *_ = await asyncio.gather(complete(client, **fields), *company)
    assert together["choices"][0]["text"] == alone["choices"][0]["text"]


async def test_beam_search(client: httpx.AsyncClient) -> None:
    """Beams are real continuations: scoring the text again gives the same log-probabilities."""
    prompt = "The three primary colours are"
    fields = {"prompt": prompt, "max_tokens": 12, "logprobs": 0}
    greedy = (await complete(client, **fields))["choices"][0]
    answer = await complete(client, **fields, use_beam_search=True, n=4)
    texts = [choice["text"] for choice in answer["choices"]]
    assert len(set(texts)) == 4
    means = [mean(choice["logprobs"]["token_logprobs"]) for choice in answer["choices"]]
    assert means == sorted(means, reverse=True)
    assert means[0] >= mean(greedy["logprobs"]["token_logprobs"])
    for choice in answer["choices"]:
        scored = await complete(
            client, prompt=prompt + choice["text"], max_tokens=0, echo=True, logprobs=0
        )
        count = len(choice["logprobs"]["tokens"])
        assert scored["choices"][0]["logprobs"]["token_logprobs"][-count:] == pytest.approx(
            choice["logprobs"]["token_logprobs"], abs=1e-3
        )


async def test_the_best_of_three_is_one_of_them(client: httpx.AsyncClient) -> None:
    fields = {"prompt": "My name is", "temperature": 1, "seed": 5, "max_tokens": 8}
    all_three = (await complete(client, **fields, n=3, logprobs=0))["choices"]
    best = max(all_three, key=lambda choice: mean(choice["logprobs"]["token_logprobs"]))
    answer = await complete(client, **fields, best_of=3)
    assert [choice["text"] for choice in answer["choices"]] == [best["text"]]
    assert answer["usage"]["completion_tokens"] == 24


async def test_a_repeated_prompt_is_cached(client: httpx.AsyncClient) -> None:
    prompt = "Whales are the largest animals that have ever lived on this planet, and yet " * 4
    first = await complete(client, prompt=prompt, max_tokens=4)
    second = await complete(client, prompt=prompt, max_tokens=4)
    assert first["choices"][0]["text"] == second["choices"][0]["text"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 16


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_pages(
    client: httpx.AsyncClient, engine: EngineClient, stream: bool
) -> None:
    body = {"model": MODEL, "prompt": "The sea", "max_tokens": 900, "ignore_eos": True}
    post = asyncio.create_task(client.post(URL, json=body | {"stream": stream}))
    await until(engine, lambda stats: stats.num_running == 1)
    post.cancel()
    await asyncio.gather(post, return_exceptions=True)
    await until(engine, lambda stats: stats.num_running + stats.num_waiting == 0)
    assert (await engine.stats()).num_blocks_used == 0


async def test_a_killed_engine_is_told_and_started_again(
    client: httpx.AsyncClient, engine: EngineClient
) -> None:
    body = {"model": MODEL, "prompt": "The sea", "max_tokens": 900, "ignore_eos": True}
    posts = [
        asyncio.create_task(client.post(URL, json=body | {"stream": True, "seed": i}))
        for i in range(4)
    ]
    await until(engine, lambda stats: stats.num_generated_tokens > 0 and stats.num_running == 4)
    before = (await engine.stats()).num_generated_tokens
    await until(engine, lambda stats: stats.num_generated_tokens >= before + 8)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    for post in posts:
        response = await post
        assert response.status_code == 200
        assert events(response.text)[-1]["error"]["type"] == "service_unavailable_error"
    response = await client.post(URL, json=body | {"max_tokens": 4})
    while response.status_code == 503:  # it tells how long to wait
        await asyncio.sleep(float(response.headers["retry-after"]))
        response = await client.post(URL, json=body | {"max_tokens": 4})
    assert response.status_code == 200
    assert response.json()["choices"][0]["finish_reason"] == "length"
