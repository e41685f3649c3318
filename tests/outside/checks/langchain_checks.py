"""What users of LangChain's `OpenAI` do, run by pytest in an environment that has it.

OCTAVO_URL is the address of a server with the built-in model in float32, without a path.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import openai
import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_openai import OpenAI

MODEL = "smollm2-135m-instruct"
PROMPT = "The capital of France is"


def model(**options: Any) -> OpenAI:
    defaults = {"temperature": 0, "max_tokens": 8, "max_retries": 0}
    base_url = os.environ["OCTAVO_URL"] + "/v1"
    return OpenAI(model=MODEL, base_url=base_url, api_key="x", **defaults | options)


def test_invoke() -> None:
    assert "Paris" in model().invoke(PROMPT)


def test_the_class_as_it_comes() -> None:
    """Its own defaults: temperature 0.7, 256 tokens."""
    base_url = os.environ["OCTAVO_URL"] + "/v1"
    llm = OpenAI(model=MODEL, base_url=base_url, api_key="x")
    assert (llm.temperature, llm.max_tokens) == (0.7, 256)
    assert llm.invoke(PROMPT, stop=["."])


def test_more_prompts_than_it_sends_at_once() -> None:
    llm = model(max_tokens=4)
    assert llm.batch_size == 20
    prompts = [f"{number}, {number + 1}, {number + 2}," for number in range(25)]
    result = llm.generate(prompts)
    texts = [generations[0].text for generations in result.generations]
    assert len(texts) == 25
    assert texts[3] == llm.invoke(prompts[3])
    assert texts[22] == llm.invoke(prompts[22])
    assert texts == llm.batch(prompts)
    usage = result.llm_output["token_usage"]
    assert usage["completion_tokens"] == 25 * 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 25 * 4


def test_stream() -> None:
    llm = model()
    pieces = list(llm.stream(PROMPT))
    assert "".join(pieces) == llm.invoke(PROMPT)
    assert len([piece for piece in pieces if piece]) > 1


def test_asynchronously() -> None:
    async def main() -> None:
        llm = model()
        whole = await llm.ainvoke(PROMPT)
        assert "Paris" in whole
        assert "".join([piece async for piece in llm.astream(PROMPT)]) == whole
        assert await llm.abatch([PROMPT, PROMPT]) == [whole, whole]

    asyncio.run(main())


def test_stop_sequences() -> None:
    llm = model(max_tokens=32)
    assert llm.invoke("One, two, three,", stop=[" six"]) == " four, five,"
    assert llm.bind(stop=[" five"]).invoke("One, two, three,") == " four,"
    assert "".join(llm.stream("One, two, three,", stop=[" six"])) == " four, five,"


def test_several_choices() -> None:
    result = model(n=3, temperature=1.0, seed=11).generate([PROMPT, "Once upon a time"])
    assert [len(generations) for generations in result.generations] == [3, 3]
    generation = result.generations[0][0]
    assert generation.generation_info["finish_reason"] in {"stop", "length"}
    assert len({generation.text for generation in result.generations[0]}) > 1


def test_the_best_of_several() -> None:
    result = model(n=1, best_of=3, temperature=1.0, seed=11).generate([PROMPT])
    assert len(result.generations[0]) == 1
    assert result.llm_output["token_usage"]["completion_tokens"] <= 3 * 8


def test_logprobs() -> None:
    result = model(logprobs=2).generate([PROMPT])
    (generation,) = result.generations[0]
    logprobs = generation.generation_info["logprobs"]
    assert "".join(logprobs["tokens"]) == generation.text
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])


def test_in_a_chain() -> None:
    template = PromptTemplate.from_template("The capital of {country} is")
    chain = template | model() | StrOutputParser()
    assert "Paris" in chain.invoke({"country": "France"})


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        model(temperature=5).invoke(PROMPT)
    assert caught.value.param == "temperature"
