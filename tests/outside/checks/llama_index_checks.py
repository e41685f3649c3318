"""What users of LlamaIndex's `OpenAILike` do, run by pytest in an environment that has it.

OCTAVO_URL is the address of a server with the built-in model in float32, without a path.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import openai
import pytest
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

MODEL = "smollm2-135m-instruct"
PROMPT = "The capital of France is"


def model(**options: Any) -> OpenAILike:
    defaults = {"is_chat_model": False, "temperature": 0, "max_tokens": 8, "max_retries": 0}
    api_base = os.environ["OCTAVO_URL"] + "/v1"
    return OpenAILike(model=MODEL, api_base=api_base, api_key="x", **defaults | options)


def test_the_client_below_it_is_of_the_second_series() -> None:
    assert openai.VERSION.startswith("2.")


def test_complete() -> None:
    answer = model().complete(PROMPT)
    assert "Paris" in answer.text
    assert str(answer) == answer.text
    assert answer.raw.usage.completion_tokens == 8
    counts = answer.additional_kwargs
    assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"]


def test_the_class_as_it_comes() -> None:
    """No `max_tokens` and a temperature of 0.1."""
    answer = model(max_tokens=None, temperature=0.1).complete(PROMPT)
    assert 1 <= answer.raw.usage.completion_tokens <= 16


def test_stream_complete() -> None:
    llm = model()
    whole = llm.complete(PROMPT).text
    pieces = list(llm.stream_complete(PROMPT))
    assert "".join(piece.delta for piece in pieces) == pieces[-1].text == whole
    assert len(pieces) > 1


def test_a_usage_chunk_at_the_end_of_a_stream() -> None:
    llm = model(additional_kwargs={"stream_options": {"include_usage": True}})
    *_, last = llm.stream_complete(PROMPT)
    assert last.raw.choices == []
    assert last.additional_kwargs["completion_tokens"] == 8
    assert last.text == llm.complete(PROMPT).text


def test_asynchronously() -> None:
    async def main() -> None:
        llm = model()
        whole = (await llm.acomplete(PROMPT)).text
        assert "Paris" in whole
        stream = await llm.astream_complete(PROMPT)
        assert "".join([piece.delta async for piece in stream]) == whole

    asyncio.run(main())


def test_a_chat_becomes_a_prompt() -> None:
    answer = model().chat([ChatMessage(role="user", content="What is the capital of France?")])
    assert answer.message.content


def test_logprobs() -> None:
    answer = model(logprobs=True, top_logprobs=2).complete(PROMPT)
    assert len(answer.logprobs) == 8
    assert "".join(entries[0].token for entries in answer.logprobs) == answer.text


def test_what_openai_does_not_have() -> None:
    greedy = model().complete(PROMPT).text
    extra = {"extra_body": {"top_k": 1}, "seed": 1, "stop": ["no such words"]}
    assert model(temperature=1.0, additional_kwargs=extra).complete(PROMPT).text == greedy


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        model().complete(PROMPT, model="gpt-6")
    assert caught.value.code == "model_not_found"
