"""What scripts for `openai` 0.28 do, run by pytest in an environment that has it.

OCTAVO_URL is the address of a server with the built-in model in float32, without a path, where
the model is also called text-davinci-002; OCTAVO_LOCKED_URL that of one which wants OCTAVO_KEY.
"""

from __future__ import annotations

import asyncio
import os

import openai
import pytest

MODEL = "smollm2-135m-instruct"
ENGINE = "text-davinci-002"
PROMPT = "The capital of France is"


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "api_base", os.environ["OCTAVO_URL"] + "/v1")
    monkeypatch.setattr(openai, "api_key", "none is needed")


def test_the_classic_call() -> None:
    completions = openai.Completion.create(
        engine="text-davinci-002",
        prompt="Hello",
        max_tokens=150,
        n=1,
        stop=None,
        temperature=0.7,
    )
    message = completions.choices[0].text
    assert message.strip()
    assert completions["choices"][0]["text"] == message
    assert completions.object == "text_completion"
    assert completions.model == ENGINE
    assert completions.choices[0].finish_reason in {"stop", "length"}
    assert 1 <= completions.usage.completion_tokens <= 150


def test_engine_and_model_say_the_same() -> None:
    request = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    texts = {
        openai.Completion.create(**name, **request).choices[0].text
        for name in (
            {"engine": ENGINE},
            {"engine": MODEL},
            {"engine": "HuggingFaceTB/SmolLM2-135M-Instruct"},  # goes as %2F
            {"model": ENGINE},
        )
    }
    (text,) = texts
    assert "Paris" in text


@pytest.mark.parametrize("name", ["engine", "model"])
def test_a_stream(name: str) -> None:
    request = {name: ENGINE, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    chunks = list(openai.Completion.create(**request, stream=True))
    assert len(chunks) > 1
    joined = "".join(chunk.choices[0].text for chunk in chunks)
    assert joined == openai.Completion.create(**request).choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_stream_with_usage() -> None:
    chunks = list(
        openai.Completion.create(
            engine=ENGINE,
            prompt=PROMPT,
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens <= 3


def test_the_best_of_several() -> None:
    answer = openai.Completion.create(
        engine=ENGINE, prompt=PROMPT, max_tokens=4, best_of=3, n=2, logprobs=1
    )
    assert len(answer.choices) == 2
    means = [sum(c.logprobs.token_logprobs) / len(c.logprobs.tokens) for c in answer.choices]
    assert means[0] >= means[1]


def test_several_prompts_and_logprobs() -> None:
    answer = openai.Completion.create(
        engine=ENGINE, prompt=[PROMPT, "One, two,"], max_tokens=0, echo=True, logprobs=5
    )
    assert [choice.text for choice in answer.choices] == [PROMPT, "One, two,"]
    assert answer.choices[0].logprobs.token_logprobs[0] is None


def test_asynchronously() -> None:
    request = {"engine": ENGINE, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}

    async def main() -> None:
        whole, again = await asyncio.gather(
            openai.Completion.acreate(**request), openai.Completion.acreate(**request)
        )
        assert whole.choices[0].text == again.choices[0].text
        stream = await openai.Completion.acreate(**request, stream=True)
        texts = [chunk.choices[0].text async for chunk in stream]
        assert "".join(texts) == whole.choices[0].text

    asyncio.run(main())


def test_engines() -> None:
    engines = openai.Engine.list()
    assert ENGINE in [engine.id for engine in engines.data]
    assert {engine.object for engine in engines.data} == {"engine"}
    engine = openai.Engine.retrieve(ENGINE)
    assert (engine.id, engine.object, engine.ready) == (ENGINE, "engine", True)
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert openai.Engine.retrieve(name).id == name


def test_models() -> None:
    models = openai.Model.list()
    assert MODEL in [model.id for model in models.data]
    assert openai.Model.retrieve(ENGINE).object == "model"


def test_a_wrong_value() -> None:
    with pytest.raises(openai.error.InvalidRequestError) as caught:
        openai.Completion.create(engine=ENGINE, prompt=PROMPT, temperature=3)
    error = caught.value
    assert (error.param, error.code) == ("temperature", "decimal_above_max_value")
    assert error.http_status == 400
    assert error.request_id.startswith("req_")
    assert error.error.type == "invalid_request_error"
    assert error.json_body["error"]["message"] == error.user_message


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_engine(stream: bool) -> None:
    with pytest.raises(openai.error.InvalidRequestError) as caught:
        openai.Completion.create(engine="davinci", prompt=PROMPT, stream=stream)
    assert (caught.value.http_status, caught.value.code) == (404, "model_not_found")
    assert "davinci" in str(caught.value)
    with pytest.raises(openai.error.InvalidRequestError):
        openai.Engine.retrieve("davinci")


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "api_base", os.environ["OCTAVO_LOCKED_URL"] + "/v1")
    request = {"engine": MODEL, "prompt": PROMPT, "max_tokens": 1}
    openai.Completion.create(**request, api_key=os.environ["OCTAVO_KEY"])
    for stream in (False, True):
        with pytest.raises(openai.error.AuthenticationError) as caught:
            openai.Completion.create(**request, stream=stream, api_key="sk-wrong")
        assert caught.value.http_status == 401
        assert caught.value.json_body["error"]["code"] == "invalid_api_key"
        assert caught.value.json_body["error"]["message"] == caught.value.user_message
    monkeypatch.setattr(openai, "api_key", None)
    with pytest.raises(openai.error.AuthenticationError):  # the client's own
        openai.Completion.create(**request)
