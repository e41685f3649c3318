"""Answers of POST /v1/completions: choices, usage, echo, log-probabilities; streamed and not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from byte_tokenizer import BOS, EOS, SPECIAL, byte_tokenizer
from fake_engine import INFO, FakeEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_app import MODEL, live_app

from engine import Request

URL = "/v1/completions"
pytestmark = pytest.mark.asyncio(loop_scope="module")


def script(request: Request, index: int) -> list[int]:
    """Each prompt and choice says something of its own."""
    prompt = byte_tokenizer().decode(request.prompt_token_ids)
    return [*f"<{prompt}|{index}> wörld, 世界!".encode(), EOS]


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(script)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with live_app(engine) as client:
        yield client


async def complete(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(URL, json={"model": MODEL, "prompt": "p"} | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["object"] == "text_completion"
    return answer


async def stream(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, `[DONE]` checked and left out."""
    body = {"model": MODEL, "prompt": "p", "stream": True} | fields
    response = await client.post(URL, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, nothing = response.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    assert response.content.isascii()
    return [json.loads(event.removeprefix("data: ")) for event in events]


def fold(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices of a stream, put together again as a client would."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for piece in chunk["choices"]:
            whole = choices.setdefault(
                piece["index"],
                {"text": "", "index": piece["index"], "logprobs": None, "finish_reason": None},
            )
            assert whole["finish_reason"] is None, "a piece after the last one"
            whole["text"] += piece["text"]
            whole["finish_reason"] = piece["finish_reason"]
            if piece["logprobs"] is not None:
                whole["logprobs"] = whole["logprobs"] or {name: [] for name in piece["logprobs"]}
                for name, values in piece["logprobs"].items():
                    whole["logprobs"][name] += values
    return [choices[index] for index in sorted(choices)]


fields = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(["p", "", ["p", "世<special>"], [104, 105], [[104], [105, 106]]]),
        "n": st.integers(1, 3),
        "max_tokens": st.integers(0, 40),
        "echo": st.booleans(),
        "logprobs": st.sampled_from([None, 0, 2]),
        "stop": st.lists(st.sampled_from(["ö", "ld", "ld, 世", ">", "界!", "zz"]), max_size=3),
        "seed": st.just(1),
    }
)


@given(fields)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_the_joined_stream_is_the_answer(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    answer = await complete(client, **fields)
    chunks = await stream(client, **fields, stream_options={"include_usage": True})
    assert fold(chunks) == answer["choices"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == answer["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks}) == 1
    for choice in answer["choices"]:
        if not fields["echo"]:
            assert not any(stop in choice["text"] for stop in fields["stop"])
        if choice["logprobs"] is not None:
            assert len({len(values) for values in choice["logprobs"].values()}) == 1
    assert engine.is_idle


async def test_choices_are_ordered_by_prompt_then_choice(client: httpx.AsyncClient) -> None:
    for answer in (
        (await complete(client, prompt=["a", "b"], n=2, max_tokens=100))["choices"],
        fold(await stream(client, prompt=["a", "b"], n=2, max_tokens=100)),
    ):
        assert [choice["index"] for choice in answer] == [0, 1, 2, 3]
        heads = [choice["text"].split(" ")[0] for choice in answer]
        assert heads == ["<a|0>", "<a|1>", "<b|0>", "<b|1>"]
        assert {choice["finish_reason"] for choice in answer} == {"stop"}


async def test_usage_is_the_sum_over_prompts_and_choices(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.num_cached_tokens = 16
    answer = await complete(client, prompt=[[1, 2, 3], [4]], n=2, max_tokens=5)
    engine.num_cached_tokens = 0
    assert answer["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 20,
        "total_tokens": 24,
        "prompt_tokens_details": {"cached_tokens": 32},
    }


async def test_usage_only_when_asked(client: httpx.AsyncClient) -> None:
    assert all("usage" not in chunk for chunk in await stream(client))
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await stream(client, max_tokens=5, stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 5


async def test_a_stop_string_ends_the_choice_in_the_engine(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.aborts.clear()
    answer = await complete(client, n=2, stop="|1", max_tokens=1000)
    assert [choice["text"] for choice in answer["choices"]] == ["<p|0> wörld, 世界!", "<p"]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop", "stop"]
    assert engine.aborts == [(engine.requests[-1].request_id, 1)]
    ended = len("<p|1")
    whole = len("<p|0> wörld, 世界!".encode()) + 1
    assert answer["usage"]["completion_tokens"] == whole + ended


async def test_echo_with_log_probabilities(client: httpx.AsyncClient) -> None:
    answer = await complete(client, prompt="é<special>b", echo=True, logprobs=1, max_tokens=2)
    choice = answer["choices"][0]
    assert choice["text"] == "é<special>b<\ufffd"[:-1] + choice["text"][-1]
    logprobs = choice["logprobs"]
    assert logprobs["tokens"][:5] == ["<s>", r"bytes:\xc3", r"bytes:\xa9", "<special>", "b"]
    assert logprobs["text_offset"] == [0, 0, 0, 1, 10, 11, 12]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(value is not None for value in logprobs["token_logprobs"][1:])
    for token, logprob, top in zip(
        logprobs["tokens"][1:],
        logprobs["token_logprobs"][1:],
        logprobs["top_logprobs"][1:],
        strict=True,
    ):
        assert top[token] == logprob
        assert len(top) == 2


async def test_offsets_of_a_shown_special_token_after_half_a_character(
    client: httpx.AsyncClient,
) -> None:
    fields = {"echo": True, "logprobs": 0, "skip_special_tokens": False}
    answer = await complete(client, prompt=[0xC2, BOS, 0], **fields)
    choice = answer["choices"][0]
    assert choice["text"].startswith("\ufffd<s>\0")
    assert choice["logprobs"]["text_offset"][:3] == [0, 1, 4]


async def test_scoring_a_prompt_without_generating(client: httpx.AsyncClient) -> None:
    for prompt, text in (([104, 105, 106], "hij"), ("hij", "hij")):
        answer = await complete(client, prompt=prompt, echo=True, logprobs=0, max_tokens=0)
        choice = answer["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (text, "length")
        assert choice["logprobs"]["tokens"][-3:] == ["h", "i", "j"]
        assert choice["logprobs"]["top_logprobs"][-1] == {"j": -1.06}
        assert answer["usage"]["completion_tokens"] == 0


async def test_nothing_asked_nothing_generated(client: httpx.AsyncClient) -> None:
    answer = await complete(client, max_tokens=0)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == ("", "length", None)


async def test_nul_round_trips(client: httpx.AsyncClient) -> None:
    answer = await complete(client, prompt="a\0b", echo=True, max_tokens=1)
    assert answer["choices"][0]["text"] == "a\0b<"


async def test_what_the_engine_is_asked(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await complete(
        client,
        prompt=[1, 2],
        n=2,
        temperature=0.5,
        top_p=0.9,
        top_k=-1,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.5,
        logit_bias={"5": -100},
        seed=-7,
        max_tokens=9,
        min_tokens=3,
        stop_token_ids=[7, 7],
        logprobs=2,
        echo=True,
    )
    request = engine.requests[-1]
    assert (request.prompt_token_ids, request.n, request.cache_salt) == ([1, 2], 2, "")
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 0)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1.0, -1.0)
    assert (sampling.logit_bias, sampling.seed) == ({5: -100.0}, -7)
    assert (sampling.max_tokens, sampling.min_tokens) == (9, 3)
    assert sampling.stop_token_ids == (7, EOS)
    assert (sampling.logprobs, sampling.prompt_logprobs) == (2, 2)


async def test_defaults(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await complete(client, max_tokens=None)
    one = engine.requests[-1].sampling
    assert (one.max_tokens, one.temperature, one.stop_token_ids) == (16, 1.0, (EOS,))
    assert (one.logprobs, one.prompt_logprobs) == (None, None)
    await complete(client, ignore_eos=True)
    other = engine.requests[-1].sampling
    assert other.stop_token_ids == ()
    assert other.seed != one.seed


async def test_the_alias_is_answered_under_its_name(client: httpx.AsyncClient) -> None:
    assert (await complete(client, model="alias"))["model"] == "alias"


@pytest.mark.parametrize(
    ("prompt", "param"), [("a<special>b", "prompt"), (["a", "<special>"], "prompt[1]")]
)
async def test_a_token_that_the_tokenizer_has_and_the_model_has_not(
    prompt: str | list[str], param: str
) -> None:
    """A tokenizer may have been given tokens that the model's table has no row for."""
    engine = FakeEngine(script, info=replace(INFO, vocab_size=SPECIAL))
    async with live_app(engine, tokenizer=byte_tokenizer()) as client:
        await complete(client, prompt="ab")
        response = await client.post(URL, json={"model": MODEL, "prompt": prompt})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert len(engine.requests) == 1
