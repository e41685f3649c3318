"""Bad bodies against the running application: status, type, param and code of each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fake_engine import INFO, FakeEngine
from live_app import MODEL, live_app
from msgspec import structs

from server.settings import Settings
from server.wire.schemas import CompletionRequest

JSON = {"Content-Type": "application/json"}
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


def good(fields: str) -> bytes:
    """A good body with more JSON members, written as text."""
    return f'{{"model": "{MODEL}", "prompt": "x", {fields}}}'.encode()


NOT_JSON = {
    "cut": b'{"model":',
    "empty": b"",
    "trailing garbage": b'{"n":1} x',
    "two objects": b"{}{}",
    "NaN": good('"temperature": NaN'),
    "Infinity": good('"temperature": Infinity'),
    "-Infinity": good('"foo": -Infinity'),
    "NaN prompt": b'{"model": "fake-model", "prompt": NaN}',
    "lone surrogate": b'{"model": "fake-model", "prompt": "\\ud800"}',
    "lone surrogate, wrong type": good('"n": "\\ud800"'),
    "5,000 digits": good('"n": ' + "9" * 5000),
    "invalid UTF-8": b'{"model": "fake-model", "prompt": "\xff"}',
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "UTF-8 BOM": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    "100,000 deep": good('"prompt": ' + "[" * 100_000 + "]" * 100_000),
    "100,000 deep, unknown": good('"foo": ' + '{"a":' * 100_000 + "1" + "}" * 100_000),
    "gzip": b"\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_what_is_not_json(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post(URL, content=body, headers=JSON)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)
    assert "JSON body" in error["message"]
    assert len(response.content) < 1000


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"5"])
async def test_what_is_not_an_object(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post(URL, content=body, headers=JSON)
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, None, "invalid_type")


MIN, MAX = "integer_below_min_value", "integer_above_max_value"
LOW, HIGH = "decimal_below_min_value", "decimal_above_max_value"
TYPE, VALUE = "invalid_type", "invalid_value"
# field, JSON text of its value, code, param when it is not the field
BAD_FIELDS = [
    ("temperature", "1e999", VALUE, None),
    ("n", "1e400", TYPE, None),
    ("model", "5", TYPE, None),
    ("model", "null", TYPE, None),
    ("model", '""', "string_below_min_length", None),
    ("prompt", "[]", "empty_array", None),
    ("prompt", "[[]]", "empty_array", None),
    ("prompt", '["a", 1]', TYPE, "prompt[1]"),
    ("prompt", '[[1], "a"]', TYPE, "prompt[1]"),
    ("prompt", "[null]", TYPE, None),
    ("prompt", "{}", TYPE, None),
    ("prompt", "5", TYPE, None),
    ("prompt", "[true, false]", TYPE, None),
    ("prompt", "[1, true]", TYPE, "prompt[1]"),
    ("prompt", "[1.0]", TYPE, None),
    ("prompt", "[[1, 2.0]]", TYPE, "prompt[0][1]"),
    ("prompt", "[1, 2, 3, -1]", MIN, "prompt[3]"),
    ("prompt", "[1, 300]", MAX, "prompt[1]"),
    ("prompt", "[9223372036854775808]", MAX, "prompt[0]"),
    ("prompt", "[[1], [300]]", MAX, "prompt[1][0]"),
    ("prompt", json.dumps(["a"] * 10_000), "array_above_max_length", None),
    ("prompt", json.dumps("a" * 4096), "context_length_exceeded", None),
    ("prompt", json.dumps("a" * 3_000_000), "context_length_exceeded", None),
    ("prompt", json.dumps([1] * 600_000), "context_length_exceeded", None),
    ("max_tokens", "-1", MIN, None),
    ("max_tokens", "4096", "context_length_exceeded", "prompt"),
    ("max_tokens", "1000000000", "context_length_exceeded", "prompt"),
    ("max_tokens", "9223372036854775808", MAX, None),
    ("max_tokens", '"16"', TYPE, None),
    ("max_tokens", "16.5", TYPE, None),
    ("max_tokens", "16.0", TYPE, None),
    ("max_tokens", "true", TYPE, None),
    ("n", "0", MIN, None),
    ("n", "-1", MIN, None),
    ("n", "129", MAX, None),
    ("n", "1000000000", MAX, None),
    ("n", "true", TYPE, None),
    ("n", '"3"', TYPE, None),
    ("n", "3.0", TYPE, None),
    ("best_of", "21", MAX, None),
    ("best_of", "-1", MIN, None),
    ("temperature", "-0.1", LOW, None),
    ("temperature", "2.1", HIGH, None),
    ("temperature", '"0.5"', TYPE, None),
    ("temperature", "true", TYPE, None),
    ("top_p", "1.1", HIGH, None),
    ("top_p", "-0.1", LOW, None),
    ("presence_penalty", "2.1", HIGH, None),
    ("presence_penalty", "-2.1", LOW, None),
    ("frequency_penalty", "2.1", HIGH, None),
    ("frequency_penalty", "-2.1", LOW, None),
    ("logprobs", "21", MAX, None),
    ("logprobs", "-1", MIN, None),
    ("logprobs", "true", TYPE, None),
    ("logit_bias", "[]", TYPE, None),
    ("logit_bias", '{"abc": 1}', VALUE, None),
    ("logit_bias", '{"": 1}', VALUE, None),
    ("logit_bias", '{"1.5": 1}', VALUE, None),
    ("logit_bias", '{"-1": 1}', VALUE, None),
    ("logit_bias", '{"300": 1}', VALUE, None),
    ("logit_bias", '{"99999999999999999999": 1}', VALUE, None),
    ("logit_bias", '{"\\u0661": 1}', VALUE, None),
    ("logit_bias", '{"5": 101}', HIGH, "logit_bias.5"),
    ("logit_bias", '{"5": -101}', LOW, "logit_bias.5"),
    ("logit_bias", '{"5": 1e999}', HIGH, "logit_bias.5"),
    ("logit_bias", '{"5": "x"}', TYPE, "logit_bias.5"),
    ("logit_bias", '{"5": true}', TYPE, "logit_bias.5"),
    (
        "logit_bias",
        json.dumps({str(i): 1 for i in range(100_000)}),
        "object_above_max_properties",
        None,
    ),
    ("stop", '""', "string_below_min_length", None),
    ("stop", '[""]', "string_below_min_length", "stop[0]"),
    ("stop", "5", TYPE, None),
    ("stop", "[5]", TYPE, "stop[0]"),
    ("stop", json.dumps(["a"] * 17), "array_above_max_length", None),
    ("stop", json.dumps("a" * 1_000_000), "string_above_max_length", None),
    ("seed", "9223372036854775808", MAX, None),
    ("seed", "-9223372036854775809", MIN, None),
    ("seed", "1.5", TYPE, None),
    ("suffix", '"x"', "unsupported_parameter", None),
    ("stream", '"yes"', TYPE, None),
    ("stream", "1", TYPE, None),
    ("stream_options", '{"include_usage": true}', VALUE, None),
    ("stream_options", "[]", TYPE, None),
    ("stream_options", '{"include_usage": 1}', TYPE, "stream_options.include_usage"),
    ("user", json.dumps("u" * 1_000_000), "string_above_max_length", None),
    ("user", "{}", TYPE, None),
    ("response_format", '{"type": "json_object"}', "unsupported_parameter", None),
    ("cache_salt", '"a/b"', VALUE, None),
    ("top_k", "-5", MIN, None),
    ("min_p", "2", HIGH, None),
    ("repetition_penalty", "0", LOW, None),
    ("min_tokens", "17", VALUE, None),
    ("min_tokens", "-1", MIN, None),
    ("ignore_eos", "1", TYPE, None),
    ("stop_token_ids", "[-1]", MIN, "stop_token_ids[0]"),
    ("stop_token_ids", "[1, 300]", MAX, "stop_token_ids[1]"),
    ("stop_token_ids", json.dumps([1] * 129), "array_above_max_length", None),
    ("stop_token_ids", "5", TYPE, None),
]


@pytest.mark.parametrize(
    ("field", "value", "code", "param"),
    BAD_FIELDS,
    ids=[f"{field}={value[:30]}" for field, value, *_ in BAD_FIELDS],
)
async def test_bad_fields(
    client: httpx.AsyncClient, field: str, value: str, code: str, param: str | None
) -> None:
    body = json.dumps({key: v for key, v in GOOD.items() if key not in (field, "max_tokens")})
    response = await client.post(URL, content=f'{body[:-1]}, "{field}": {value}}}', headers=JSON)
    error = error_of(response)
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["param"], error["code"]) == (param or field, code), error["message"]
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"prompt": "x"}, 400, "model", "missing_required_parameter"),
        ({"model": MODEL}, 400, "prompt", "missing_required_parameter"),
        ({}, 400, "model", "missing_required_parameter"),
        ({**GOOD, "model": "other"}, 404, None, "model_not_found"),
        ({**GOOD, "model": "../../etc/passwd"}, 404, None, "model_not_found"),
        ({**GOOD, "model": "m" * 1_000_000}, 404, None, "model_not_found"),
        ({**GOOD, "foo": 1}, 400, None, "unknown_parameter"),
        ({**GOOD, "f" * 100_000: 1}, 400, None, "unknown_parameter"),
        ({**GOOD, "best_of": 2, "n": 3}, 400, "best_of", "invalid_value"),
        ({**GOOD, "prompt": ["x"] * 9, "n": 128}, 400, "n", "invalid_value"),
        ({**GOOD, "min_tokens": 3}, 400, "min_tokens", "invalid_value"),
        ({**GOOD, "prompt": [{}] * 1000}, 400, "prompt", "invalid_type"),
    ],
)
async def test_bad_combinations(
    client: httpx.AsyncClient, body: Any, status: int, param: str | None, code: str
) -> None:
    response = await client.post(URL, json=body)
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": None},
        {"prompt": ["a", ""]},
        {"prompt": "\0"},
        {"prompt": [299, 298]},
        {"max_tokens": 0},
        {"temperature": 0},
        {"temperature": 5e-324},
        {"temperature": 0, "n": 2},
        {"top_p": 0},
        {"top_k": -1},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"stop": []},
        {"stop": ["a"] * 16},
        {"stop": "a" * 256},
        {"best_of": 1, "n": 2},
        {"best_of": 0},
        {"best_of": 2, "n": 2},
        {"suffix": ""},
        {"suffix": None, "response_format": None},
        {"logit_bias": {str(i): -100 for i in range(300)}},
        {"prompt": "a" * 4000, "max_tokens": 95},
        {"n": 128, "prompt": ["x"] * 8},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        dict.fromkeys(CompletionRequest.model_fields.keys() - {"model", "prompt"}),
    ],
)
async def test_what_is_accepted(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    response = await client.post(URL, json=GOOD | fields)
    assert response.status_code == 200, response.text


async def test_the_last_of_duplicate_keys_wins(client: httpx.AsyncClient) -> None:
    response = await client.post(URL, content=good('"n": 1, "n": 2'), headers=JSON)
    assert len(response.json()["choices"]) == 2


async def test_messages_are_those_of_openai(client: httpx.AsyncClient) -> None:
    response = await client.post(URL, json=GOOD | {"temperature": 200})
    assert response.json()["error"]["message"] == (
        "Invalid 'temperature': decimal above maximum value. "
        "Expected a value <= 2, but got 200 instead."
    )
    response = await client.post(URL, json=GOOD | {"tempature": 1})
    assert response.json()["error"]["message"] == (
        "Unrecognized request argument supplied: tempature. Did you mean 'temperature'?"
    )
    response = await client.post(URL, json=GOOD | {"prompt": "a" * 4000, "max_tokens": 100})
    assert response.json()["error"]["message"].startswith(
        "This model's maximum context length is 4096 tokens, however you requested 4001 tokens "
        "in your prompt and 100 tokens for the completion."
    )


async def test_unknown_parameters_may_be_allowed() -> None:
    settings = Settings(allow_unknown_params=True)
    async with live_app(FakeEngine(), settings) as client:
        assert (await client.post(URL, json=GOOD | {"foo": 1})).status_code == 200
        response = await client.post(URL, json=GOOD | {"suffix": "x"})
        assert error_of(response)["code"] == "unsupported_parameter"


async def test_a_prompt_larger_than_the_whole_cache_is_refused() -> None:
    engine = FakeEngine(info=structs.replace(INFO, num_blocks=4))
    async with live_app(engine) as client:
        response = await client.post(URL, json=GOOD | {"prompt": "a" * 62})
        assert error_of(response)["code"] == "context_length_exceeded"
        assert not engine.requests
        assert (await client.post(URL, json=GOOD | {"prompt": "a" * 61})).status_code == 200
