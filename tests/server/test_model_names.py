"""How a request names its model: in the body, in the URL, by an alias, by any name at all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fake_engine import FakeEngine
from live_app import MODEL, live_app

from server.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = {"prompt": "x", "max_tokens": 3}
ENGINE = f"/v1/engines/{MODEL}/completions"
# Program's name, and the one in the URL as openai 0.28 quotes it.
NAMES = [
    ("text-davinci-002", "text-davinci-002"),
    ("meta-llama/Llama-3.2-1B", "meta-llama%2FLlama-3.2-1B"),
    ("a/completions/b", "a%2Fcompletions%2Fb"),
    ("m\u00f6del", "m%C3%B6del"),
    ("m" * 256, "m" * 256),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with live_app(FakeEngine()) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def any_name() -> AsyncIterator[httpx.AsyncClient]:
    async with live_app(FakeEngine(), Settings(model_alias_any=True)) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def without_id(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in ("id", "created")}


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    *events, done = [line[len("data: ") :] for line in response.text.split("\n") if line]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


async def test_an_engine_completes_as_its_model_does(client: httpx.AsyncClient) -> None:
    body = PROMPT | {"n": 2, "logprobs": 1, "echo": True}
    by_engine = (await client.post(ENGINE, json=body)).json()
    by_model = (await client.post("/v1/completions", json=body | {"model": MODEL})).json()
    assert without_id(by_engine) == without_id(by_model)
    assert by_engine["model"] == MODEL


async def test_an_engine_streams(client: httpx.AsyncClient) -> None:
    body = PROMPT | {"stream": True}
    response = await client.post(ENGINE, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    by_model = await client.post("/v1/completions", json=body | {"model": MODEL})
    events = [without_id(event) for event in events_of(response)]
    assert events == [without_id(event) for event in events_of(by_model)]
    assert {event["model"] for event in events} == {MODEL}


@pytest.mark.parametrize("model", ["other", MODEL, "", None])
async def test_the_url_wins_over_the_body(client: httpx.AsyncClient, model: str | None) -> None:
    response = await client.post("/v1/engines/alias/completions", json=PROMPT | {"model": model})
    assert response.json()["model"] == "alias"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": 5}, "model", "invalid_type"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"tempature": 1}, None, "unknown_parameter"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
    ],
)
async def test_an_engine_is_as_strict(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str | None, code: str
) -> None:
    response = await client.post(ENGINE, json=PROMPT | fields)
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


async def test_engines(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/engines")).json()
    assert body["object"] == "list"
    assert [card["id"] for card in body["data"]] == [MODEL, "alias"]
    card = (await client.get("/v1/engines/alias")).json()
    assert card == body["data"][1]
    assert (card["object"], card["owner"], card["ready"]) == ("engine", "octavo", True)


async def test_an_engine_is_ready_when_requests_can_be_answered() -> None:
    engine = FakeEngine()
    async with live_app(engine) as client:
        engine.is_ready = False
        assert (await client.get(f"/v1/engines/{MODEL}")).json()["ready"] is False
        response = await client.post(ENGINE, json=PROMPT)
        assert (response.status_code, error_of(response)["code"]) == (503, "model_loading")


async def requests_for(client: httpx.AsyncClient, name: str, quoted: str) -> list[httpx.Response]:
    """Every way to name a model."""
    return [
        await client.post(f"/v1/engines/{quoted}/completions", json=PROMPT),
        await client.post("/v1/completions", json=PROMPT | {"model": name}),
        await client.post("/tokenize", json={"prompt": "x", "model": name}),
        await client.post("/detokenize", json={"tokens": [1], "model": name}),
        await client.get(f"/v1/models/{quoted}"),
        await client.get(f"/v1/engines/{quoted}"),
    ]


@pytest.mark.parametrize(("name", "quoted"), NAMES)
async def test_another_name_is_no_model(client: httpx.AsyncClient, name: str, quoted: str) -> None:
    for response in await requests_for(client, name, quoted):
        assert response.status_code == 404
        error = error_of(response)
        assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")
        assert f"'{name[:64]}'" in error["message"]


@pytest.mark.parametrize(("name", "quoted"), NAMES)
async def test_any_name_may_be_one(any_name: httpx.AsyncClient, name: str, quoted: str) -> None:
    responses = await requests_for(any_name, name, quoted)
    assert [response.status_code for response in responses] == [200] * len(responses)
    by_engine, by_model, _, _, model, engine = [response.json() for response in responses]
    assert by_engine["model"] == by_model["model"] == name
    assert model["id"] == engine["id"] == name
    stream = await any_name.post("/v1/completions", json=PROMPT | {"model": name, "stream": True})
    assert {event["model"] for event in events_of(stream)} == {name}


async def test_only_real_names_are_listed(any_name: httpx.AsyncClient) -> None:
    for path in ("/v1/models", "/v1/engines"):
        body = (await any_name.get(path)).json()
        assert [card["id"] for card in body["data"]] == [MODEL, "alias"]


async def test_a_name_has_a_length(any_name: httpx.AsyncClient) -> None:
    for response in await requests_for(any_name, "n" * 257, "n" * 257):
        assert response.status_code == 404
        assert error_of(response)["code"] == "model_not_found"
        assert len(response.content) < 1000
    for path in ("/v1/models/", "/v1/engines/"):
        assert (await any_name.get(path)).status_code == 404
    assert (await any_name.post("/v1/engines//completions", json=PROMPT)).status_code == 404
