"""What holds for every request and every text that a model may write: the stream is the answer,
offsets point at their tokens, counts add up, and nothing of a stop string is shown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from copy import deepcopy
from random import Random
from typing import Any

import httpx
import pytest
import pytest_asyncio
from byte_tokenizer import BOS, EOS, SPECIAL, byte_tokenizer
from fake_engine import FakeEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_app import MODEL, live_app

from engine import Request

URL = "/v1/completions"
pytestmark = pytest.mark.asyncio(loop_scope="module")

# Few characters, so that stop strings begin often; bytes that are no UTF-8; ids without a text.
PARTS = [b"a", b"b", "ß".encode(), "世".encode(), "🎉".encode(), b"\xf0\x9f", b"\xff"]
NAMES = {BOS: "<s>", EOS: "</s>", SPECIAL: "<special>"}


def script(request: Request, index: int) -> list[int]:
    """Tokens that are a function of the request's seed and prompt, as a model's are."""
    random = Random(f"{request.sampling.seed} {request.prompt_token_ids} {index}")  # noqa: S311
    token_ids: list[int] = []
    for _ in range(random.randint(0, 30)):
        token_ids += random.choice([*PARTS, b"", b""]) or [random.choice([SPECIAL, 299])]
    return [*token_ids, EOS]


@pytest.fixture(scope="module", params=[1, 3], ids=["one by one", "three at a time"])
def engine(request: pytest.FixtureRequest) -> FakeEngine:
    engine = FakeEngine(script, group=request.param)
    engine.num_cached_tokens = 1
    return engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with live_app(engine) as client:
        yield client


STOPS = st.lists(st.text(alphabet="abß世🎉", min_size=1, max_size=3), max_size=3)
TEXTS = st.text(alphabet="abß世🎉\0", max_size=8)
IDS = st.lists(st.integers(0, 299), min_size=1, max_size=8)
PROMPTS = st.one_of(
    TEXTS, IDS, st.lists(TEXTS, min_size=1, max_size=3), st.lists(IDS, min_size=1, max_size=3)
)
FIELDS = st.fixed_dictionaries(
    {
        "prompt": PROMPTS,
        "n": st.integers(1, 3),
        "max_tokens": st.integers(0, 60),
        "echo": st.booleans(),
        "logprobs": st.sampled_from([None, 0, 2]),
        "stop": STOPS,
        "seed": st.integers(0, 1000),
    },
    optional={
        "min_tokens": st.just(0),
        "include_stop_str_in_output": st.booleans(),
        "skip_special_tokens": st.booleans(),
        "return_token_ids": st.booleans(),
    },
)


async def answer_to(client: httpx.AsyncClient, fields: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(URL, json={"model": MODEL} | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def chunks_of(client: httpx.AsyncClient, fields: dict[str, Any]) -> list[dict[str, Any]]:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"model": MODEL, "stream": True, "stream_options": options} | fields
    response = await client.post(URL, json=body)
    assert response.status_code == 200, response.text
    *events, done, nothing = response.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def fold(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices of a stream, put together as a client would."""
    choices: dict[int, dict[str, Any]] = {}
    for piece in (piece for chunk in chunks for piece in chunk["choices"]):
        whole = choices.get(piece["index"])
        if whole is None:
            choices[piece["index"]] = deepcopy(piece)
            continue
        assert whole["finish_reason"] is None, "a piece after the last one"
        whole["text"] += piece["text"]
        whole["finish_reason"] = piece["finish_reason"]
        if "token_ids" in piece:
            whole["token_ids"] += piece["token_ids"]
        if piece["logprobs"] is not None:
            for name, values in piece["logprobs"].items():
                whole["logprobs"][name] += values
    return [choices[index] for index in sorted(choices)]


@given(FIELDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
async def test_the_stream_is_the_answer(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    answer, chunks = await answer_to(client, fields), await chunks_of(client, fields)
    assert fold(chunks) == answer["choices"]
    usages = [chunk["usage"] for chunk in chunks]
    assert usages[-1] == answer["usage"]
    counts = [usage["completion_tokens"] for usage in usages]
    assert counts == sorted(counts)
    assert engine.is_idle


@given(FIELDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
async def test_what_every_answer_keeps(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    answer = await answer_to(client, fields | {"return_token_ids": True})
    choices = answer["choices"]
    prompts = choices[:: fields["n"]]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    usage = answer["usage"]
    assert usage["prompt_tokens"] == sum(len(choice["prompt_token_ids"]) for choice in prompts)
    assert usage["completion_tokens"] == sum(len(choice["token_ids"]) for choice in choices)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == len(prompts)
    for choice in choices:
        check_stop(choice, fields)
        if choice["logprobs"] is not None:
            check_offsets(choice, fields)


def check_stop(choice: dict[str, Any], fields: dict[str, Any]) -> None:
    """The text is what the tokens say up to the first stop string, and no more of that is shown."""
    skip = fields.get("skip_special_tokens", True)
    tokenizer = byte_tokenizer()
    written = choice["text"]
    if fields["echo"]:
        echoed = fields["prompt"]
        if isinstance(echoed, list) and not isinstance(echoed[0], int):
            echoed = echoed[choice["index"] // fields["n"]]
        shown = echoed if isinstance(echoed, str) else tokenizer.decode(echoed, skip)
        assert written.startswith(shown)
        written = written[len(shown) :]
    token_ids = choice["token_ids"]
    included = fields.get("include_stop_str_in_output", False)
    if token_ids[-1:] == [EOS] and not included:
        token_ids = token_ids[:-1]
    said = tokenizer.decode(token_ids, skip)
    places = [(said.index(stop), len(stop)) for stop in fields["stop"] if stop in said]
    if not places:
        assert written == said
        return
    assert choice["finish_reason"] == "stop"
    begin = min(begin for begin, _ in places)
    ends = {begin + length for at, length in places if at == begin}
    assert written in ({said[:end] for end in ends} if included else {said[:begin]})


def check_offsets(choice: dict[str, Any], fields: dict[str, Any]) -> None:
    logprobs, text = choice["logprobs"], choice["text"]
    assert len({len(values) for values in logprobs.values()}) == 1
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        is_character = not token.startswith(("bytes:", "token_id:"))
        if is_character and token not in NAMES.values():
            # The last one may be cut by a stop string that began in it.
            assert text[offset:].startswith(token) or token.startswith(text[offset:])
    if fields["logprobs"]:
        first = fields["echo"] and logprobs["token_logprobs"][:1] == [None]
        for token, top in list(zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True))[
            first:
        ]:
            assert token in top
            assert len(top) in (fields["logprobs"], fields["logprobs"] + 1)


@given(FIELDS, st.integers(1, 3))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
async def test_shown_text_is_never_taken_back(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], num_choices: int
) -> None:
    fields |= {"n": num_choices, "echo": False}
    chunks = await chunks_of(client, fields)
    final = {choice["index"]: choice["text"] for choice in fold(chunks)}
    shown: dict[int, str] = {}
    for piece in (piece for chunk in chunks for piece in chunk["choices"]):
        shown[piece["index"]] = shown.get(piece["index"], "") + piece["text"]
        assert final[piece["index"]].startswith(shown[piece["index"]])
        assert piece["text"] or piece["finish_reason"] is not None
