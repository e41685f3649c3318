"""What bad bodies are told, where that takes more than a row of `hostile_rows.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fake_engine import INFO, FakeEngine
from live_app import MODEL, live_app

from server.settings import Settings
from server.wire.schemas import CompletionRequest

URL = "/v1/completions"
GOOD = {"model": MODEL, "prompt": "x", "max_tokens": 2}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with live_app(FakeEngine()) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The one error of the envelope, whose four keys are always there."""
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    return body["error"]


async def test_stream_options_without_effect(client: httpx.AsyncClient) -> None:
    fields = {"stream": True, "stream_options": {"include_obfuscation": False}}
    assert (await client.post(URL, json=GOOD | fields)).status_code == 200


async def test_all_problems_are_told_at_once(client: httpx.AsyncClient) -> None:
    fields = {"temperature": 3, "n": "two", "stop": 5, "logit_bias": {"x": 1}}
    response = await client.post(URL, json=GOOD | fields)
    assert error_of(response) == {
        "message": "Invalid 'logit_bias': its keys must be token ids of the model, written as "
        "strings; these are not: 'x'; "
        "Invalid type for 'n': expected an integer, but got a string instead; "
        "Invalid type for 'stop': expected a string or an array of strings, but got an integer "
        "instead; "
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 "
        "instead.",
        "type": "invalid_request_error",
        "param": "logit_bias",
        "code": "invalid_value",
    }


async def test_but_not_all_of_many(client: httpx.AsyncClient) -> None:
    body = dict.fromkeys(CompletionRequest.model_fields, {"secret": "x" * 100_000})
    error = error_of(await client.post(URL, json=body))
    assert (error["param"], error["code"]) == ("model", "invalid_type")
    assert error["message"].count("Invalid") == 10
    assert error["message"].endswith(" more.")
    assert "xxx" not in error["message"]
    items = GOOD | {"stop_token_ids": [-1] * 128, "stream_options": {"y" * 500: 1}}
    error = error_of(await client.post(URL, json=items))
    assert error["message"].endswith("; and 119 more.")
    assert len(error["message"]) < 4000


async def test_a_misspelt_name_is_looked_for_among_few(client: httpx.AsyncClient) -> None:
    """Comparing all names of a body of 4 MiB would take the event loop several seconds."""
    for num_before, hint in ((10, " Did you misspell it as 'promt'?"), (100, "")):
        body = dict.fromkeys(map(str, range(num_before)), 1) | {"promt": "x", "model": MODEL}
        error = error_of(await client.post(URL, json=body))
        assert error["message"] == f"Missing required parameter: 'prompt'.{hint}"


@pytest.mark.parametrize("name", CompletionRequest.model_fields)
async def test_a_wrong_value_is_one_problem(client: httpx.AsyncClient, name: str) -> None:
    for value in ([{}], {"x": []}):
        response = await client.post(URL, json=GOOD | {name: value})
        assert response.status_code == 400
        message = error_of(response)["message"]
        assert message.count("Invalid") == 1, message


async def test_unknown_parameters_may_be_allowed() -> None:
    settings = Settings(allow_unknown_params=True)
    async with live_app(FakeEngine(), settings) as client:
        assert (await client.post(URL, json=GOOD | {"foo": 1})).status_code == 200
        response = await client.post(URL, json=GOOD | {"suffix": "x"})
        assert error_of(response)["code"] == "unsupported_parameter"


async def test_a_prompt_larger_than_the_whole_cache_is_refused() -> None:
    engine = FakeEngine(info=replace(INFO, num_blocks=4))
    async with live_app(engine) as client:
        response = await client.post(URL, json=GOOD | {"prompt": "a" * 62})
        assert error_of(response)["code"] == "context_length_exceeded"
        assert not engine.requests
        assert (await client.post(URL, json=GOOD | {"prompt": "a" * 61})).status_code == 200
