"""Short requests for long answers: what prompts, choices and log-probabilities multiply to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from byte_tokenizer import byte_tokenizer
from fake_engine import INFO, FakeEngine
from live_app import MODEL, live_app

from server.completion.answer_size import check_answer_size
from server.completion.prompts import EncodedPrompt
from server.wire.errors import ApiError
from server.wire.limits import MAX_ANSWER_BYTES
from server.wire.schemas import CompletionRequest

URL = "/v1/completions"
LONG = replace(INFO, max_model_len=200_000, num_blocks=20_000)
PROMPT = [97] * 60_000


def is_refused(num_prompts: int, num_prompt_tokens: int, text: str = "", **fields: Any) -> bool:
    body = CompletionRequest.model_validate({"model": "m", "prompt": "x"} | fields)
    prompt = EncodedPrompt([97] * num_prompt_tokens, text if body.echo else "")
    try:
        check_answer_size(body, [prompt] * num_prompts)
    except ApiError as error:
        assert (error.status, error.code) == (400, "answer_too_large")
        assert "64 MiB" in error.message
        return True
    return False


@pytest.mark.parametrize(
    ("most", "fields"),
    [
        (MAX_ANSWER_BYTES // 32, {"max_tokens": 1, "logprobs": 0}),
        (MAX_ANSWER_BYTES // 32 // 21, {"max_tokens": 1, "logprobs": 20}),
        (MAX_ANSWER_BYTES // 8, {"max_tokens": 1, "return_token_ids": True}),
    ],
)
def test_what_is_generated(most: int, fields: dict[str, Any]) -> None:
    """Of an answer; a stream is written as it is read."""
    in_one = fields | {"max_tokens": most}
    assert not is_refused(1, 0, **in_one)
    assert is_refused(1, 0, **fields | {"max_tokens": most + 1})
    assert is_refused(1, 0, **in_one, n=2)
    assert is_refused(1, 0, **in_one, best_of=2)
    assert is_refused(2, 0, **in_one)
    assert not is_refused(2, 0, **in_one, n=2, stream=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("most", "fields"),
    [
        (MAX_ANSWER_BYTES // 32 // 6, {"echo": True, "logprobs": 5}),
        (MAX_ANSWER_BYTES // 64 // 21, {"prompt_logprobs": 20}),
        (MAX_ANSWER_BYTES // 8, {"return_token_ids": True}),
    ],
)
def test_what_is_shown_of_prompts(most: int, fields: dict[str, Any], stream: bool) -> None:
    fields = fields | {"max_tokens": 0, "stream": stream}
    assert not is_refused(1, most, **fields)
    assert is_refused(1, most + 1, **fields)
    assert not is_refused(64, most // 128, **fields, n=2)
    assert is_refused(64, most // 128 + 1, **fields, n=2)


def test_echoed_text() -> None:
    text = "x" * (MAX_ANSWER_BYTES // 128)
    assert not is_refused(1, 9, text, echo=True, n=128)
    assert is_refused(1, 9, text + "x", echo=True, n=128)
    assert not is_refused(1, 9, text + "x", n=128)


def test_text_of_the_model_does_not_count() -> None:
    assert not is_refused(1024, 100_000, max_tokens=100_000)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 128, "echo": True, "logprobs": 5, "max_tokens": 0},
        {"n": 128, "echo": True, "logprobs": 5, "max_tokens": 0, "stream": True},
        {"n": 128, "logprobs": 20, "prompt": "x", "max_tokens": 10_000},
        {"n": 4, "prompt_logprobs": 20},
        {"n": 8, "prompt": [PROMPT] * 20, "return_token_ids": True},
    ],
    ids=lambda fields: ",".join(fields),
)
async def test_nothing_is_computed(fields: dict[str, Any]) -> None:
    engine = FakeEngine(info=LONG)
    async with live_app(engine) as client:
        response = await client.post(URL, json={"model": MODEL, "prompt": PROMPT} | fields)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "answer_too_large")
        assert len(response.content) < 1000
    assert engine.requests == []


async def test_a_suffix_counts_for_each_prompt() -> None:
    """Else two KiB of prompts could become as many megabytes of them."""
    engine = FakeEngine()
    body = {"model": MODEL, "prompt": ["ab"] * 1024, "suffix": "z" * 4095}
    async with live_app(engine, tokenizer=byte_tokenizer(fill_in_middle=True)) as client:
        error = (await client.post(URL, json=body)).json()["error"]
        assert (error["param"], error["code"]) == ("suffix", "string_above_max_length")
        body |= {"prompt": ["ab"] * 3, "max_tokens": 1, "suffix": "z" * 3000}
        assert (await client.post(URL, json=body)).status_code == 200
    for request in engine.requests:
        assert request.prompt_token_ids[-3003:] == [98, 260, *[ord("z")] * 3000, 261]
