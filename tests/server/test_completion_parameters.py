"""What each parameter of POST /v1/completions does to the answer, or asks of the engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from byte_tokenizer import BOS, EOS, MARKERS, SPECIAL, byte_tokenizer
from fake_engine import INFO, FakeEngine
from live_app import MODEL, live_app

from engine import BeamSearch, Request

URL = "/v1/completions"
pytestmark = pytest.mark.asyncio(loop_scope="module")

# The fake engine gives token t the log-probability -t / 100: the lower the bytes, the more likely.
SAYINGS = [b"zz", b"aa", b"mm", b"aab"]


def script(request: Request, index: int) -> list[int]:
    if request.sampling.seed == 1:
        return [*SAYINGS[index % len(SAYINGS)], EOS]
    return [*b"one ", SPECIAL, *"twö three".encode(), EOS]


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(script)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with live_app(engine, tokenizer=byte_tokenizer(fill_in_middle=True)) as client:
        yield client


async def complete(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(
        URL, json={"model": MODEL, "prompt": "p", "max_tokens": 50} | fields
    )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def choice_of(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    [choice] = (await complete(client, **fields))["choices"]
    assert isinstance(choice, dict)
    return choice


async def chunks_of(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": MODEL, "prompt": "p", "max_tokens": 50, "stream": True} | fields
    response = await client.post(URL, json=body)
    assert response.status_code == 200, response.text
    *events, done, nothing = response.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def refused(client: httpx.AsyncClient, **fields: Any) -> tuple[str, str]:
    """Parameter and code of a 400."""
    response = await client.post(URL, json={"model": MODEL, "prompt": "p"} | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["param"], error["code"]


# best_of


async def test_the_best_of_several_are_returned_best_first(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await complete(client, prompt=["p", "q"], n=2, best_of=4, seed=1)
    texts = [(choice["index"], choice["text"]) for choice in answer["choices"]]
    # By the mean of (a, a, EOS), (a, a, b, EOS) and so on.
    assert texts == [(0, "aab"), (1, "aa"), (2, "aab"), (3, "aa")]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert engine.requests[-1].n == 4
    assert answer["usage"]["completion_tokens"] == 2 * (3 + 3 + 3 + 4)


async def test_tokens_up_to_the_stop_string_count_for_the_best(client: httpx.AsyncClient) -> None:
    choice = await choice_of(client, best_of=3, seed=1, stop=["zz"], logprobs=1)
    # z, z: -1.22 for each token; a, a, EOS: -1.50; m, m, EOS: -1.58.
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    assert choice["logprobs"]["tokens"] == []


async def test_best_of_one_is_no_choice_to_make(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for best_of in (None, 0, 1, 2):
        answer = await complete(client, n=2, best_of=best_of, seed=1)
        assert [choice["text"] for choice in answer["choices"]] == ["zz", "aa"]
        assert engine.requests[-1].sampling.logprobs is None


async def test_best_of_is_refused_where_it_makes_no_sense(client: httpx.AsyncClient) -> None:
    assert await refused(client, n=3, best_of=2) == ("best_of", "invalid_value")
    assert await refused(client, best_of=2, stream=True) == ("best_of", "invalid_value")
    assert await refused(client, best_of=21) == ("best_of", "integer_above_max_value")
    assert await refused(client, prompt=["p"] * 100, best_of=20) == ("best_of", "invalid_value")


# suffix


async def test_a_gap_is_marked_with_the_tokens_of_the_model(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    choice = await choice_of(client, prompt="ab", suffix="yz", echo=True)
    assert choice["text"] == "abone twö three"
    before, after, middle = MARKERS.values()
    gap = [before, *b"ab", after, *b"yz", middle]
    assert engine.requests[-1].prompt_token_ids == [BOS, *gap]
    await complete(client, prompt=[[97], [98]], suffix="z", add_special_tokens=False)
    assert engine.requests[-1].prompt_token_ids == [before, 98, after, *b"z", middle]


async def test_an_empty_suffix_is_none(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for suffix in ("", None):
        await complete(client, suffix=suffix)
        assert engine.requests[-1].prompt_token_ids == [BOS, *b"p"]


async def test_suffix_is_refused_where_it_cannot_work(client: httpx.AsyncClient) -> None:
    assert await refused(client, suffix="x", echo=True, logprobs=0) == ("logprobs", "invalid_value")
    assert await refused(client, suffix="x", truncate_prompt_tokens=1) == (
        "truncate_prompt_tokens",
        "invalid_value",
    )
    async with live_app(FakeEngine(script)) as other:
        assert await refused(other, suffix="x") == ("suffix", "unsupported_parameter")


# the prompt


@pytest.mark.parametrize(
    ("fields", "token_ids", "text"),
    [
        ({"truncate_prompt_tokens": 2}, b"ef", "ef"),
        ({"truncate_prompt_tokens": 2, "truncation_side": "left"}, b"ef", "ef"),
        ({"truncate_prompt_tokens": 2, "truncation_side": "right"}, [BOS, *b"a"], "a"),
        ({"truncate_prompt_tokens": 100}, [BOS, *b"abcdef"], "abcdef"),
        ({"truncate_prompt_tokens": -1}, [BOS, *b"abcdef"], "abcdef"),
        ({"truncate_prompt_tokens": -1, "max_tokens": 4093}, b"def", "def"),
        ({"add_special_tokens": False}, b"abcdef", "abcdef"),
        ({"add_special_tokens": None}, [BOS, *b"abcdef"], "abcdef"),
    ],
)
async def test_what_is_left_of_the_prompt(
    client: httpx.AsyncClient, engine: FakeEngine, fields: Any, token_ids: Any, text: str
) -> None:
    choice = await choice_of(client, prompt="abcdef", echo=True, **fields)
    assert engine.requests[-1].prompt_token_ids == list(token_ids)
    assert choice["text"] == f"{text}one twö three"


async def test_a_prompt_that_is_too_long_fits_when_it_is_cut(client: httpx.AsyncClient) -> None:
    long = "x" * 1_000_000
    assert await refused(client, prompt=long) == ("prompt", "context_length_exceeded")
    answer = await complete(client, prompt=long, truncate_prompt_tokens=5)
    assert answer["usage"]["prompt_tokens"] == 5
    assert await refused(client, prompt=long, truncate_prompt_tokens=0) == (
        "truncate_prompt_tokens",
        "invalid_value",
    )
    assert await refused(client, prompt=long, truncate_prompt_tokens=5000) == (
        "prompt",
        "context_length_exceeded",
    )


async def test_an_empty_prompt_without_special_tokens(client: httpx.AsyncClient) -> None:
    assert await refused(client, prompt="", add_special_tokens=False) == ("prompt", "invalid_value")


# the text


async def test_special_tokens_are_shown_when_asked_for(client: httpx.AsyncClient) -> None:
    choice = await choice_of(client, prompt=[97, SPECIAL], echo=True, skip_special_tokens=False)
    assert choice["text"] == "a<special>one <special>twö three"
    choice = await choice_of(client, prompt=[97, SPECIAL], echo=True)
    assert choice["text"] == "aone twö three"


async def test_offsets_with_special_tokens_shown(client: httpx.AsyncClient) -> None:
    choice = await choice_of(
        client, prompt=[97, SPECIAL, 98], echo=True, skip_special_tokens=False, logprobs=0
    )
    logprobs = choice["logprobs"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert token.startswith("bytes:") or choice["text"][offset:].startswith(token)


async def test_what_ended_the_text_may_be_included(client: httpx.AsyncClient) -> None:
    included = {"include_stop_str_in_output": True, "logprobs": 0, "stop": ["wö"]}
    choice = await choice_of(client, **included)
    assert (choice["text"], choice["finish_reason"]) == ("one twö", "stop")
    assert choice["logprobs"]["tokens"][-3:] == ["w", r"bytes:\xc3", r"bytes:\xb6"]
    choice = await choice_of(client, **included | {"stop": None}, skip_special_tokens=False)
    assert choice["text"] == "one <special>twö three</s>"
    assert choice["logprobs"]["tokens"][-1] == "</s>"
    choice = await choice_of(client, **included | {"stop": None})
    assert choice["text"] == "one twö three"


async def test_included_stop_strings_in_a_stream(client: httpx.AsyncClient) -> None:
    chunks = await chunks_of(client, include_stop_str_in_output=True, stop=[" three", "e t"])
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one t"


# token ids and log-probabilities


async def test_token_ids_are_returned(client: httpx.AsyncClient) -> None:
    choice = await choice_of(client, return_token_ids=True)
    assert choice["prompt_token_ids"] == [BOS, *b"p"]
    assert choice["token_ids"] == [*b"one ", SPECIAL, *"twö three".encode(), EOS]
    choice = await choice_of(client, return_token_ids=True, stop="wö")
    assert choice["token_ids"] == [*b"one ", SPECIAL, *"twö".encode()]
    plain = await choice_of(client)
    assert set(plain) == {"text", "index", "logprobs", "finish_reason"}


async def test_token_ids_of_a_stream(client: httpx.AsyncClient) -> None:
    chunks = await chunks_of(client, return_token_ids=True, n=2)
    for index in (0, 1):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert mine[0]["prompt_token_ids"] == [BOS, *b"p"]
        assert all("prompt_token_ids" not in choice for choice in mine[1:])
        token_ids = [token_id for choice in mine for token_id in choice["token_ids"]]
        assert token_ids == [*b"one ", SPECIAL, *"twö three".encode(), EOS]


async def test_tokens_are_called_by_their_ids(client: httpx.AsyncClient) -> None:
    choice = await choice_of(
        client, logprobs=1, echo=True, return_tokens_as_token_ids=True, max_tokens=2
    )
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == [f"token_id:{i}" for i in (BOS, *b"pon")]
    assert list(logprobs["top_logprobs"][-1]) == ["token_id:111", "token_id:110"]
    assert logprobs["text_offset"] == [0, 0, 1, 2]


async def test_prompt_logprobs(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await complete(client, prompt=["a", "b"], prompt_logprobs=1, n=2)
    assert engine.requests[-1].sampling.prompt_logprobs == 1
    assert engine.requests[-1].sampling.logprobs is None
    for choice, byte in zip(answer["choices"], b"aabb", strict=True):
        assert choice["logprobs"] is None
        first, second = choice["prompt_logprobs"]
        assert first is None
        assert second == {
            str(byte): {"logprob": -byte / 100, "rank": byte + 1, "decoded_token": chr(byte)},
            str(byte + 1): {"logprob": -0.5, "rank": 1, "decoded_token": chr(byte + 1)},
        }
    assert await refused(client, prompt_logprobs=1, stream=True) == (
        "prompt_logprobs",
        "invalid_value",
    )


async def test_each_kind_of_logprobs_has_its_own_number(client: httpx.AsyncClient) -> None:
    choice = await choice_of(client, logprobs=1, echo=True, prompt_logprobs=3)
    assert [len(entry) for entry in choice["prompt_logprobs"][1:]] == [4]
    assert {len(top) for top in choice["logprobs"]["top_logprobs"][1:]} == {2}


# what the engine is asked


async def test_what_only_the_engine_does(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await complete(
        client,
        allowed_token_ids=[5, 6, 5],
        bad_words=["ab", " ab", "c"],
        priority=-3,
        cache_salt="team-7",
    )
    request = engine.requests[-1]
    assert request.sampling.allowed_token_ids == (5, 6)
    assert set(request.sampling.bad_words) == {(97, 98), (32, 97, 98), (99,), (32, 99)}
    assert (request.priority, request.cache_salt, request.beam_search) == (-3, "team-7", None)
    await complete(client, allowed_token_ids=None, bad_words=None, priority=None, cache_salt=None)
    request = engine.requests[-1]
    assert (request.sampling.allowed_token_ids, request.sampling.bad_words) == (None, ())
    assert (request.priority, request.cache_salt) == (0, "")


async def test_beam_search(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await complete(
        client,
        use_beam_search=True,
        n=4,
        temperature=0,
        length_penalty=0.5,
        early_stopping="never",
        logprobs=2,
        echo=True,
    )
    assert engine.requests[-1].beam_search == BeamSearch(0.5, "never")
    assert engine.requests[-1].n == 4
    await complete(client, use_beam_search=True, early_stopping=None, length_penalty=None)
    assert engine.requests[-1].beam_search == BeamSearch(1.0, False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "stream"),
        ({"best_of": 3}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 0.5}, "temperature"),
        ({"top_p": 0.5}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"min_p": 0.1}, "min_p"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"allowed_token_ids": [5]}, "allowed_token_ids"),
        ({"bad_words": ["x"]}, "bad_words"),
        ({"stop": "x"}, "stop"),
        ({"n": INFO.max_num_seqs + 1}, "n"),
        ({"n": 32, "max_tokens": 1024}, "n"),  # 2,048 pages of 1,024
        ({"use_beam_search": False, "length_penalty": 2}, "length_penalty"),
        ({"use_beam_search": False, "early_stopping": True}, "early_stopping"),
    ],
    ids=str,
)
async def test_what_beam_search_does_not_go_with(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    assert await refused(client, **{"use_beam_search": True} | fields) == (param, "invalid_value")


@pytest.mark.parametrize(
    ("field", "value", "param", "code"),
    [
        ("allowed_token_ids", [], "allowed_token_ids", "empty_array"),
        ("allowed_token_ids", [1, "2"], "allowed_token_ids[1]", "invalid_type"),
        ("allowed_token_ids", [1, 300], "allowed_token_ids[1]", "integer_above_max_value"),
        ("allowed_token_ids", [-1], "allowed_token_ids[0]", "integer_below_min_value"),
        ("bad_words", "x", "bad_words", "invalid_type"),
        ("bad_words", [""], "bad_words[0]", "string_below_min_length"),
        ("bad_words", ["x" * 257], "bad_words[0]", "string_above_max_length"),
        ("bad_words", ["x"] * 129, "bad_words", "array_above_max_length"),
        ("cache_salt", "", "cache_salt", "string_below_min_length"),
        ("cache_salt", "x" * 129, "cache_salt", "string_above_max_length"),
        ("cache_salt", 5, "cache_salt", "invalid_type"),
        ("cache_salt", "a\0", "cache_salt", "invalid_value"),
        ("priority", 2**31, "priority", "integer_above_max_value"),
        ("early_stopping", "soon", "early_stopping", "invalid_value"),
        ("early_stopping", 1, "early_stopping", "invalid_type"),
        ("length_penalty", 101, "length_penalty", "decimal_above_max_value"),
        ("prompt_logprobs", 21, "prompt_logprobs", "integer_above_max_value"),
        ("prompt_logprobs", -1, "prompt_logprobs", "integer_below_min_value"),
        ("truncate_prompt_tokens", -2, "truncate_prompt_tokens", "integer_below_min_value"),
        ("truncation_side", "middle", "truncation_side", "invalid_value"),
        ("suffix", 5, "suffix", "invalid_type"),
        ("use_beam_search", "yes", "use_beam_search", "invalid_type"),
        ("repeat_penalty", 1.1, "repeat_penalty", "unsupported_parameter"),
        ("guided_json", {}, "guided_json", "unsupported_parameter"),
        ("top_kk", 5, None, "unknown_parameter"),
    ],
    ids=str,
)
async def test_values_that_are_refused(
    client: httpx.AsyncClient, field: str, value: Any, param: str | None, code: str
) -> None:
    assert await refused(client, **{field: value}) == (param, code)


async def test_hints(client: httpx.AsyncClient) -> None:
    for name, hint in (("repeat_penalty", "'repetition_penalty'"), ("top_kk", "'top_k'")):
        response = await client.post(URL, json={"model": MODEL, "prompt": "p", name: 2})
        assert hint in response.json()["error"]["message"]


async def test_neutral_values_of_unsupported_parameters_pass(client: httpx.AsyncClient) -> None:
    await complete(client, response_format={"type": "text"}, guided_json=None, grammar="")
