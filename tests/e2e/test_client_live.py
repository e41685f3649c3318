"""Both clients against `octavo serve` with the built-in model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import octavo_client
import pytest
from both_faces import MakeClient, all_of, each, inside, settled
from octavo_client import AsyncClient, Client, CompletionParams
from serve_process import octavo_serve

MODEL = "smollm2-135m-instruct"
PROMPT = "The capital of France is"
REQUEST: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def address(builtin_model: Path) -> Iterator[str]:
    with octavo_serve() as address:
        yield address


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    client_type: MakeClient = request.param
    return client_type


def test_each_parameter_has_a_name(address: str) -> None:
    schemas = httpx.get(f"{address}/openapi.json").json()["components"]["schemas"]
    on_the_server = set(schemas["CompletionRequest"]["properties"])
    assert on_the_server == {*CompletionParams.__annotations__, "stream"}


@pytest.mark.parametrize(
    "params",
    [
        {"logprobs": 2},
        {"n": 3, "temperature": 0.9, "seed": 7, "logprobs": 0},
        {"prompt": [PROMPT, "One, two, three,"], "echo": True, "logprobs": 1, "n": 2},
        {"stop": [",", "."], "max_tokens": 40, "return_token_ids": True},
        {"prompt": "Émile déjà 日本語 🙂:", "temperature": 1.0, "seed": 3, "logprobs": 1,
         "max_tokens": 40},
    ],
)  # fmt: skip
async def test_a_folded_stream_is_the_whole_answer(
    address: str, make_client: MakeClient, params: dict[str, Any]
) -> None:
    changing = {"id": True, "created": True, "usage": {"prompt_tokens_details"}}
    async with inside(make_client(address)) as client:
        whole = await settled(client.completions.create(**REQUEST | params))
        async with inside(client.completions.stream(**REQUEST | params)) as stream:
            text = "".join(await all_of(stream.text_deltas))
            folded = await settled(stream.get_final_completion())
    assert folded.model_dump(exclude=changing) == whole.model_dump(exclude=changing)
    assert folded.choices[0].text == text == stream.text
    assert stream.usage.total_tokens > stream.usage.prompt_tokens


async def test_many_prompts(address: str, make_client: MakeClient) -> None:
    prompts = [PROMPT, "One, two, three,", "x " * 20_000, [788, 3575, 282], "Once upon a time"]
    params = {"model": MODEL, "temperature": 0, "max_tokens": 8}
    async with inside(make_client(address)) as client:
        results = await settled(client.completions.create_many(prompts, concurrency=3, **params))
        alone = [
            await settled(client.completions.create(**params, prompt=result.prompt))
            for result in results
            if result.error is None
        ]
    assert [result.prompt for result in results] == prompts
    assert [result.error is None for result in results] == [True, True, False, True, True]
    assert [r.text for r in results if not r.error] == [a.choices[0].text for a in alone]
    assert "Paris" in results[0].text
    error = results[2].error
    assert isinstance(error, octavo_client.BadRequestError)
    assert (error.status_code, error.param, error.code) == (
        400,
        "prompt",
        "context_length_exceeded",
    )
    assert error.request_id


async def test_tokens_models_and_health(address: str, make_client: MakeClient) -> None:
    async with inside(make_client(address)) as client:
        tokens = await settled(client.tokenize("Hello, world", return_token_strs=True))
        assert tokens.count == len(tokens.tokens) == len(tokens.token_strs)
        assert "".join(tokens.token_strs) == "Hello, world"
        assert (await settled(client.detokenize(tokens.tokens))).prompt == "Hello, world"
        assert [model.id for model in await settled(client.models.list())] == [MODEL]
        assert (await settled(client.models.retrieve(MODEL))).id == MODEL
        assert (await settled(client.health())).status == "ok"


async def test_errors(address: str, make_client: MakeClient) -> None:
    async with inside(make_client(address)) as client:
        with pytest.raises(octavo_client.NotFoundError) as not_found:
            await settled(client.models.retrieve("gone"))
        with pytest.raises(octavo_client.BadRequestError) as bad:
            await settled(client.completions.create(**REQUEST | {"temperature": 3}))
    assert not_found.value.code == "model_not_found"
    assert (bad.value.param, bad.value.code) == ("temperature", "decimal_above_max_value")
    assert bad.value.request_id
    assert (bad.value.request_id, bad.value.attempts) == (
        bad.value.response.headers["x-request-id"],
        1,
    )


async def test_leaving_a_stream_frees_the_server(address: str, make_client: MakeClient) -> None:
    def num_running() -> int:
        return int(httpx.get(f"{address}/stats").json()["engine"]["running"])

    def wait_until_running(count: int) -> None:
        deadline = time.monotonic() + 60
        while num_running() != count:
            assert time.monotonic() < deadline

    endless = {"max_tokens": 4000, "ignore_eos": True}
    async with inside(make_client(address)) as client:
        async with inside(client.completions.stream(**REQUEST | endless)) as stream:
            async for _ in each(stream.text_deltas):
                break
            wait_until_running(1)
        wait_until_running(0)
