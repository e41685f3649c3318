"""A program for `openai` 3 or for `octavo_client`, which its first argument names; nothing in it
knows which. OPENAI_BASE_URL and OPENAI_API_KEY say where the server is.

Prints what it has seen, less what differs from call to call.
"""

from __future__ import annotations

import asyncio
import importlib
import sys

library = importlib.import_module(sys.argv[1])

MODEL = "smollm2-135m-instruct"
REQUEST = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}


def show(name, *values):
    print(f"{name}:", *map(repr, values))


def show_completion(name, completion):
    show(name, completion.object, completion.model, completion.usage.total_tokens)
    for choice in completion.choices:
        show("  choice", choice.index, choice.text, choice.finish_reason)
        if choice.logprobs:
            logprobs = choice.logprobs
            show("  tokens", logprobs.tokens, logprobs.text_offset)
            show("  logprobs", logprobs.token_logprobs, logprobs.top_logprobs)


def main():
    with library.Client() as client:
        show(
            "models", [model.id for model in client.models.list()], client.models.list().data[0].id
        )
        show("model", client.models.retrieve(MODEL).owned_by)

        show_completion("whole", client.completions.create(**REQUEST))
        show_completion("logprobs", client.completions.create(**REQUEST, echo=True, logprobs=2))
        show_completion(
            "several",
            client.completions.create(
                model=MODEL, prompt=["One,", "Two,"], n=2, max_tokens=4, seed=1, stop=["\n"]
            ),
        )
        nothing = dict.fromkeys(["best_of", "logit_bias", "logprobs", "seed", "stop", "suffix"])
        show_completion("nulls", client.completions.create(**REQUEST, **nothing))
        extra = client.completions.create(
            **REQUEST,
            extra_body={"return_token_ids": True},
            extra_headers={"x-request-id": "mine-1"},
            extra_query={"tag": "a"},
            timeout=60,
        )
        show("extra", extra.model_dump()["choices"][0]["token_ids"], extra._request_id)

        with client.completions.create(
            **REQUEST, stream=True, stream_options={"include_usage": True}
        ) as stream:
            for chunk in stream:
                show("chunk", [choice.text for choice in chunk.choices], bool(chunk.usage))
        for chunk in client.completions.create(**REQUEST, stream=True):
            show("chunk", chunk.choices[0].text, chunk.choices[0].finish_reason)
            break
        stream.close()

        raw = client.completions.with_raw_response.create(**REQUEST)
        show("raw", raw.status_code, raw.headers["content-type"], raw.retries_taken, raw.method)
        show("raw", raw.request_id == raw.headers["x-request-id"], raw.parse().choices[0].text)
        raw = client.with_raw_response.completions.create(**REQUEST, stream=True)
        show("raw stream", "".join(chunk.choices[0].text for chunk in raw.parse()))

        patient = client.with_options(max_retries=5, timeout=60)
        show("options", patient.completions.create(**REQUEST).choices[0].text)

        for name, wrong in [
            ("no model", {"model": "gone"}),
            ("temperature", {"temperature": 3}),
            ("context", {"max_tokens": 100_000}),
            ("unknown", {"extra_body": {"zzz": 1}}),
        ]:
            try:
                client.completions.create(**REQUEST | wrong)
            except library.APIStatusError as error:
                show(name, type(error).__name__, error.status_code, error.code, error.param)
                show(name, error.type, bool(error.request_id), error.response.status_code)
                show(name, isinstance(error, library.APIError), isinstance(error.body, dict))
        try:
            client.completions.create(**REQUEST, zzz=1)
        except TypeError:
            show("unknown argument", TypeError)
        try:
            client.with_options(timeout=0.001, max_retries=0).completions.create(
                **REQUEST | {"max_tokens": 500}
            )
        except library.APITimeoutError as error:
            show("timeout", isinstance(error, library.APIConnectionError))

    nobody = library.Client(base_url="http://127.0.0.1:9/v1", api_key="k", max_retries=0)
    try:
        nobody.models.list()
    except library.APIConnectionError as error:
        show("nobody", isinstance(error, library.APIError))
    nobody.close()


async def async_main():
    async with library.AsyncClient() as client:
        show("models", [model.id for model in (await client.models.list()).data])
        answers = await asyncio.gather(*(client.completions.create(**REQUEST) for _ in range(3)))
        show("async", [answer.choices[0].text for answer in answers])
        stream = await client.completions.create(**REQUEST, stream=True)
        async with stream:
            show("async stream", [chunk.choices[0].text async for chunk in stream])
        raw = await client.completions.with_raw_response.create(**REQUEST)
        show("async raw", raw.parse().choices[0].text)
        try:
            await client.models.retrieve("gone")
        except library.NotFoundError as error:
            show("async error", error.code, error.status_code)


main()
asyncio.run(async_main())
