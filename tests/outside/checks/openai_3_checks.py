"""What users of `openai` 3.x do, run by pytest in an environment that has it.

OCTAVO_URL is the address of a server with the built-in model in float32, without a path;
OCTAVO_LOCKED_URL that of one which wants the key OCTAVO_KEY.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

BASE_URL = os.environ["OCTAVO_URL"] + "/v1"
MODEL = "smollm2-135m-instruct"
PROMPT = "The capital of France is"
MAX_NUM_SEQS = 8  # of the server


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with OpenAI(base_url=BASE_URL, api_key="none is needed", max_retries=0) as client:
        yield client


def test_a_completion(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, temperature=0)
    assert (answer.object, answer.model) == ("text_completion", MODEL)
    (choice,) = answer.choices
    assert "Paris" in choice.text
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert answer.system_fingerprint
    assert answer._request_id


def test_every_parameter_may_be_none(client: OpenAI) -> None:
    names = "best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed"
    nothing = dict.fromkeys([*names.split(), "stop", "suffix", "temperature", "top_p"])
    answer = client.completions.create(model=MODEL, prompt=PROMPT, **nothing)
    assert answer.usage.completion_tokens <= 16
    assert len(answer.choices) == 1


def test_the_stream_is_the_answer_in_pieces(client: OpenAI) -> None:
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 24, "temperature": 0.9, "seed": 7}
    whole = client.completions.create(**request)
    stream = client.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert last.choices == []
    assert last.usage.model_dump(exclude={"prompt_tokens_details"}) == whole.usage.model_dump(
        exclude={"prompt_tokens_details"}
    )
    assert {chunk.usage for chunk in chunks} == {None}
    assert len({chunk.id for chunk in (*chunks, last)}) == 1
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole.choices[0].finish_reason]
    assert len(chunks) > 4


def test_a_seed_is_a_promise(client: OpenAI) -> None:
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 16, "temperature": 1.0}
    texts = [client.completions.create(**request, seed=s).choices[0].text for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_several_prompts_with_several_choices(client: OpenAI) -> None:
    prompts = [PROMPT, "Once upon a time", [788, 3575, 282]]
    for prompt in (prompts[:2], prompts[2:]):
        answer = client.completions.create(
            model=MODEL, prompt=prompt, n=2, max_tokens=4, temperature=0, echo=True
        )
        assert [choice.index for choice in answer.choices] == list(range(2 * len(prompt)))
        for index, choice in enumerate(answer.choices):
            if isinstance(prompt[index // 2], str):
                assert choice.text.startswith(prompt[index // 2])
            assert choice.text == answer.choices[index // 2 * 2].text  # greedy
        assert answer.usage.completion_tokens == 4 * len(answer.choices)


def test_streamed_choices_are_told_apart_by_their_index(client: OpenAI) -> None:
    request = {"model": MODEL, "prompt": [PROMPT, "One, two,"], "n": 2, "seed": 3, "max_tokens": 8}
    whole = client.completions.create(**request)
    texts = ["", "", "", ""]
    with client.completions.create(**request, stream=True) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]


def test_best_of_returns_the_likeliest(client: OpenAI) -> None:
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 8, "seed": 5, "logprobs": 0}
    request["extra_body"] = {"ignore_eos": True}
    drawn = client.completions.create(**request, n=4)
    best = client.completions.create(**request, best_of=4)

    def mean(choice: openai.types.CompletionChoice) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    assert [choice.text for choice in best.choices] == [max(drawn.choices, key=mean).text]
    assert best.usage.completion_tokens == drawn.usage.completion_tokens == 4 * 8


def test_a_prompt_is_scored_without_writing_anything(client: OpenAI) -> None:
    prompt = PROMPT + " Paris"
    answer = client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=0, echo=True, logprobs=2
    )
    (choice,) = answer.choices
    logprobs = choice.logprobs
    assert choice.text == prompt == "".join(logprobs.tokens)
    assert answer.usage.completion_tokens == 0
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs[0] is None
    lengths = {len(values) for values in (logprobs.tokens, logprobs.text_offset)}
    assert lengths == {len(logprobs.token_logprobs)} == {len(logprobs.top_logprobs)}
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert prompt[offset:].startswith(token)
    for token, own, top in list(
        zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True)
    )[1:]:
        assert top[token] == own <= max(top.values()) <= 0
        assert 2 <= len(top) <= 3
    assert logprobs.top_logprobs[-1][" Paris"] == max(logprobs.top_logprobs[-1].values())


def test_stop_bias_and_penalties(client: OpenAI) -> None:
    request = {"model": MODEL, "prompt": "One, two, three,", "temperature": 0, "max_tokens": 16}
    (choice,) = client.completions.create(**request, stop=[" six", "!!"]).choices
    assert (choice.text, choice.finish_reason) == (" four, five,", "stop")
    free = client.completions.create(**request).choices[0].text
    ids = {"30": -100, "28": -100}
    assert client.completions.create(**request, logit_bias=ids).choices[0].text != free
    penalties = {"presence_penalty": 2, "frequency_penalty": 2}
    assert client.completions.create(**request, **penalties).choices[0].text != free


def test_what_openai_does_not_have_goes_into_extra_body(client: OpenAI) -> None:
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 8}
    greedy = client.completions.create(**request, temperature=0).choices[0].text
    extra = {"top_k": 1, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
    sampled = client.completions.create(**request, temperature=1, extra_body=extra)
    assert sampled.choices[0].text == greedy
    client.completions.create(**request, extra_body={"top_k": 5})


def test_a_wrong_value(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=PROMPT, temperature=3)
    error = caught.value
    assert error.status_code == 400
    assert (error.type, error.param) == ("invalid_request_error", "temperature")
    assert error.code == "decimal_above_max_value"
    assert error.request_id
    assert error.request_id == error.response.headers["x-request-id"]
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.body["message"] in error.message


def test_an_unknown_model(client: OpenAI) -> None:
    for ask in (
        lambda: client.completions.create(model="gpt-6", prompt=PROMPT),
        lambda: client.completions.create(model="gpt-6", prompt=PROMPT, stream=True),
        lambda: client.models.retrieve("gpt-6"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert caught.value.code == "model_not_found"
        assert "gpt-6" in caught.value.message


def test_an_unknown_path(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.fine_tuning.jobs.list()
    assert caught.value.type == "invalid_request_error"
    assert "/v1/fine_tuning/jobs" in caught.value.message


def test_a_prompt_that_is_too_long(client: OpenAI) -> None:
    limit = client.models.retrieve(MODEL).max_model_len
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=[5] * limit, max_tokens=10)
    assert caught.value.code == "context_length_exceeded"
    assert str(limit) in caught.value.message


def test_errors_that_no_retry_helps_are_not_retried() -> None:
    with OpenAI(base_url=BASE_URL, api_key="none is needed", max_retries=2) as client:
        raw = client.completions.with_raw_response
        with pytest.raises(openai.BadRequestError) as caught:
            raw.create(model=MODEL, prompt=PROMPT, n=0)
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_a_raw_response(client: OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model=MODEL, prompt=PROMPT, max_tokens=1)
    assert raw.status_code == 200
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.request_id == raw.headers["x-request-id"]
    assert raw.parse().choices[0].finish_reason == "length"


def test_a_streamed_response(client: OpenAI) -> None:
    with client.completions.with_streaming_response.create(
        model=MODEL, prompt=PROMPT, max_tokens=2, stream=True
    ) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        *_, last = [line for line in raw.iter_lines() if line]
    assert last == "data: [DONE]"


def test_models(client: OpenAI) -> None:
    listed = [model.id for model in client.models.list()]
    assert listed[0] == MODEL
    for name in listed:  # one has a slash in its name
        model = client.models.retrieve(name)
        assert (model.id, model.object) == (name, "model")
        assert model.owned_by
        client.completions.create(model=name, prompt=PROMPT, max_tokens=1)
    assert any("/" in name for name in listed)


def test_a_stream_left_early_leaves_the_server_free(client: OpenAI) -> None:
    request = {"model": MODEL, "prompt": PROMPT, "extra_body": {"ignore_eos": True}}
    for _ in range(MAX_NUM_SEQS):
        with client.completions.create(**request, max_tokens=8000, stream=True) as stream:
            assert next(iter(stream)).choices
    # These answers would take minutes, in which there is no place for another.
    client.with_options(timeout=60).completions.create(**request, max_tokens=1)


def test_a_timeout_is_the_callers(client: OpenAI) -> None:
    impatient = client.with_options(timeout=0.5)
    for _ in range(MAX_NUM_SEQS):
        with pytest.raises(openai.APITimeoutError):
            impatient.completions.create(
                model=MODEL, prompt=PROMPT, max_tokens=8000, extra_body={"ignore_eos": True}
            )
    client.with_options(timeout=60).completions.create(model=MODEL, prompt=PROMPT, max_tokens=1)


def test_strict_validation_of_a_whole_answer() -> None:
    with OpenAI(
        base_url=BASE_URL, api_key="none is needed", _strict_response_validation=True
    ) as client:
        client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=2, logprobs=2, n=2)
        client.models.list()


def test_the_asynchronous_client() -> None:
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}

    async def main() -> None:
        async with AsyncOpenAI(base_url=BASE_URL, api_key="none is needed") as client:
            answers = await asyncio.gather(
                *(client.completions.create(**request) for _ in range(8))
            )
            (text,) = {answer.choices[0].text for answer in answers}
            assert "Paris" in text
            stream = await client.completions.create(**request, stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == text
            with pytest.raises(openai.BadRequestError):
                await client.completions.create(**request | {"temperature": -1})
            assert MODEL in [model.id async for model in client.models.list()]
            long = request | {"max_tokens": 8000, "extra_body": {"ignore_eos": True}}
            task = asyncio.ensure_future(client.completions.create(**long))
            await client.completions.create(**request)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())


def test_keys() -> None:
    base_url = os.environ["OCTAVO_LOCKED_URL"] + "/v1"
    request = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1}
    with OpenAI(base_url=base_url, api_key=os.environ["OCTAVO_KEY"]) as client:
        client.completions.create(**request)
        client.models.list()
        stranger = client.with_options(api_key="sk-wrong")
        for ask in (lambda: stranger.completions.create(**request), stranger.models.list):
            with pytest.raises(openai.AuthenticationError) as caught:
                ask()
            assert caught.value.code == "invalid_api_key"
            assert caught.value.type == "invalid_request_error"
            assert "sk-wrong" not in caught.value.message
