"""Answers as other servers write them, from their documentation and source."""

from __future__ import annotations

from typing import Any

import octavo_client
import pytest
from both_faces import MakeClient, all_of, inside, settled
from fault_server import DONE, FaultServer, event, json_answer, stream_answer

REQUEST: dict[str, Any] = {"model": "m", "prompt": "x"}

DETAIL = [{"loc": ["body", "max_tokens"], "msg": "Input should be > 0", "type": "greater_than"}]
# Name, status, body; then message, type, code and param as they are to be told.
ENVELOPES = [
    (
        "openai",
        404,
        {
            "error": {
                "message": "The model `m` does not exist or you do not have access to it.",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            }
        },
        ("The model `m` does not exist", "invalid_request_error", "model_not_found", None),
    ),
    (
        "vllm",
        400,
        {
            "error": {
                "message": "max_tokens must be at least 1, got -1.",
                "type": "BadRequestError",
                "param": "max_tokens",
                "code": 400,
            }
        },
        ("max_tokens must be", "BadRequestError", "400", "max_tokens"),
    ),
    ("vllm and sglang, no key", 401, {"error": "Unauthorized"}, ("Unauthorized", None, None, None)),
    (
        "sglang and vllm before 0.10",
        400,
        {
            "object": "error",
            "message": "The prompt is too long.",
            "type": "BadRequest",
            "param": None,
            "code": 400,
        },
        ("The prompt is too long.", "BadRequest", "400", None),
    ),
    (
        "llama.cpp",
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 5000,
                "n_ctx": 4096,
            }
        },
        ("the request exceeds", "exceed_context_size_error", "400", None),
    ),
    (
        "text-generation-inference",
        422,
        {"error": "Input validation error", "error_type": "validation"},
        ("Input validation error", "validation", None, None),
    ),
    ("fastapi", 404, {"detail": "Not Found"}, ("Not Found", None, None, None)),
    (
        "fastapi, a wrong field",
        422,
        {"detail": DETAIL},
        ("Input should be > 0", "greater_than", None, "max_tokens"),
    ),
    ("a gateway", 403, {"message": "Forbidden"}, ("Forbidden", None, None, None)),
    ("a proxy", 502, b"<html>Bad Gateway</html>", ("HTTP 502 from", None, None, None)),
]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [envelope[1:] for envelope in ENVELOPES],
    ids=[envelope[0] for envelope in ENVELOPES],
)
async def test_refusals(
    server: FaultServer, make_client: MakeClient, status: int, body: object, said: tuple[Any, ...]
) -> None:
    server.answers = [json_answer(body, status, request_id="req-2")]
    async with inside(make_client(server.base_url, max_retries=0)) as client:
        with pytest.raises(octavo_client.APIStatusError) as raised:
            await settled(client.completions.create(**REQUEST))
    error = raised.value
    message, *rest = said
    assert str(error).startswith(message)
    assert [error.type, error.code, error.param] == rest
    assert (error.status_code, error.request_id) == (status, "req-2")


async def test_vllm(server: FaultServer, make_client: MakeClient) -> None:
    """Extra fields in choices, no `usage` in chunks, `system_fingerprint` on the last one alone."""

    def part(text: str, token: int, **fields: Any) -> bytes:
        choice = {
            "index": 0,
            "text": text,
            "logprobs": {
                "text_offset": [fields.pop("offset")],
                "token_logprobs": [-0.5],
                "tokens": [text],
                "top_logprobs": [{text: -0.5}],
            },
            "finish_reason": None,
            "stop_reason": None,
            "prompt_token_ids": None,
            "token_ids": [token],
        }
        body = {"id": "cmpl-9", "object": "text_completion", "created": 1, "model": "m"}
        choice |= {name: fields.pop(name) for name in ("finish_reason", "stop_reason") if fields}
        return event(body | {"choices": [choice]} | fields)

    last = {"finish_reason": "stop", "stop_reason": "\n"}
    usage = {"prompt_tokens": 2, "total_tokens": 4, "completion_tokens": 2}
    server.answers = [
        stream_answer(
            part(" Par", 5, offset=0),
            b": keep-alive\n\n",
            part("is", 6, offset=4, **last),
            event({"id": "cmpl-9", "object": "text_completion", "created": 1, "model": "m",
                   "choices": [], "usage": usage, "system_fingerprint": "vllm-0.32.0-1"}),
            DONE,
        )
    ]  # fmt: skip
    async with (
        inside(make_client(server.base_url)) as client,
        inside(client.completions.stream(**REQUEST)) as stream,
    ):
        whole = await settled(stream.get_final_completion())
    (choice,) = whole.choices
    assert (choice.text, choice.finish_reason) == (" Paris", "stop")
    assert choice.logprobs.text_offset == [0, 4]
    extra = choice.model_dump()
    assert (extra["token_ids"], extra["stop_reason"]) == ([5, 6], "\n")
    assert (whole.usage.total_tokens, whole.system_fingerprint) == (4, "vllm-0.32.0-1")


async def test_a_healthy_server_without_a_word(
    server: FaultServer, make_client: MakeClient
) -> None:
    server.answers = [json_answer(b"")]
    async with inside(make_client(server.base_url)) as client:
        assert (await settled(client.health())).status is None


LLAMA_HEAD = {
    "created": 1_763_800_000,
    "model": "m",
    "system_fingerprint": "b11434-0123456",
    "object": "text_completion",
    "id": "chatcmpl-abc",
}


def llama_chunk(text: str, tokens: list[str], **fields: Any) -> dict[str, Any]:
    content = [
        {
            "id": 1,
            "token": token,
            "bytes": list(token.encode()),
            "logprob": -0.25,
            "top_logprobs": [
                {"id": 1, "token": token, "bytes": list(token.encode()), "logprob": -0.25},
                {"id": 2, "token": "?", "bytes": [63], "logprob": -2.0},
            ],
        }
        for token in tokens
    ]
    choice = {
        "text": text,
        "index": 0,
        "logprobs": {"content": content} if tokens else None,
        "finish_reason": fields.pop("finish_reason", None),
    }
    return {"choices": [choice], **LLAMA_HEAD, **fields}


async def test_llama_cpp(server: FaultServer, make_client: MakeClient) -> None:
    """Log-probabilities in the form of chats, bare comments, usage on the last chunk."""
    usage = {
        "completion_tokens": 2,
        "prompt_tokens": 2,
        "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    last = {"finish_reason": "length", "usage": usage, "timings": {"predicted_n": 2}}
    whole_body = llama_chunk(" Paris", [" Par", "is"], **last)
    server.answers = [
        stream_answer(
            event(llama_chunk(" Par", [" Par"])),
            b":\n\n",
            event(llama_chunk("is", ["is"])),
            event(llama_chunk("", [], **last)),
            DONE,
        ),
        json_answer(whole_body),
    ]
    async with inside(make_client(server.base_url)) as client:
        async with inside(client.completions.stream(**REQUEST)) as stream:
            folded = await settled(stream.get_final_completion())
        whole = await settled(client.completions.create(**REQUEST))
    assert folded.model_dump() == whole.model_dump()
    assert folded.usage.total_tokens == 4
    assert folded.model_dump()["timings"] == {"predicted_n": 2}
    logprobs = folded.choices[0].logprobs
    assert logprobs.tokens == [" Par", "is"]
    assert logprobs.token_logprobs == [-0.25, -0.25]
    assert logprobs.top_logprobs == [{" Par": -0.25, "?": -2.0}, {"is": -0.25, "?": -2.0}]
    assert logprobs.text_offset == [0, 4]


FAILED = {"code": 500, "message": "Compute error.", "type": "server_error"}
ERROR = b'{"code":500,"message":"Compute error.","type":"server_error"}'


@pytest.mark.parametrize(
    "last",
    [
        event({"error": FAILED}),
        b"error: " + ERROR + b"\n\n",
        b"event: error\ndata: " + ERROR + b"\n\n",
        event({"error": FAILED}) + DONE,
        event({"object": "error", **FAILED}) + DONE,
        event({**LLAMA_HEAD, "choices": [], "error": FAILED}),
    ],
    ids=["no end mark", "own field", "own event", "with an end mark", "flat", "in a chunk"],
)
async def test_errors_in_a_stream(
    server: FaultServer, make_client: MakeClient, last: bytes
) -> None:
    server.answers = [stream_answer(event(llama_chunk("a", [])), last)]
    async with inside(make_client(server.base_url)) as client:
        stream = await settled(client.completions.create(**REQUEST, stream=True))
        with pytest.raises(octavo_client.APIError) as raised:
            await all_of(stream)
    assert type(raised.value) is octavo_client.APIError
    assert str(raised.value) == "Compute error."
    assert (raised.value.type, raised.value.code) == ("server_error", "500")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"out of memory", "out of memory"),
        (b'{"reason": 1}', "ended the stream with an error"),
        (b"[]", "ended the stream with an error"),
    ],
)
async def test_an_error_in_any_words(
    server: FaultServer, make_client: MakeClient, data: bytes, words: str
) -> None:
    server.answers = [stream_answer(b"event: error\ndata: " + data + b"\n\n")]
    async with inside(make_client(server.base_url)) as client:
        stream = await settled(client.completions.create(**REQUEST, stream=True))
        with pytest.raises(octavo_client.APIError, match=words):
            await all_of(stream)


@pytest.mark.parametrize("error", [None, {}, ""])
async def test_an_error_that_is_none(
    server: FaultServer, make_client: MakeClient, error: object
) -> None:
    server.answers = [stream_answer(event({**llama_chunk("a", []), "error": error}), DONE)]
    async with inside(make_client(server.base_url)) as client:
        stream = await settled(client.completions.create(**REQUEST, stream=True))
        assert [part.choices[0].text for part in await all_of(stream)] == ["a"]


async def test_a_chunk_with_a_field_called_message(
    server: FaultServer, make_client: MakeClient
) -> None:
    server.answers = [stream_answer(event({**llama_chunk("a", []), "message": "hi"}), DONE)]
    async with inside(make_client(server.base_url)) as client:
        stream = await settled(client.completions.create(**REQUEST, stream=True))
        assert len(await all_of(stream)) == 1


async def test_the_least_that_a_completion_can_be(
    server: FaultServer, make_client: MakeClient
) -> None:
    server.answers = [json_answer({"choices": [{"text": " hi"}]})]
    async with inside(make_client(server.base_url)) as client:
        answer = await settled(client.completions.create(**REQUEST))
    assert (answer.choices[0].text, answer.choices[0].index, answer.usage) == (" hi", 0, None)


@pytest.mark.parametrize("name", ["prompt", "text", "content"])
async def test_names_of_a_detokenized_text(
    server: FaultServer, make_client: MakeClient, name: str
) -> None:
    server.answers = [json_answer({name: "a"})]
    async with inside(make_client(server.base_url)) as client:
        assert (await settled(client.detokenize([5]))).prompt == "a"


async def test_llama_cpp_does_not_tokenize_our_way(
    server: FaultServer, make_client: MakeClient
) -> None:
    """It takes the text as `content`, and without one says that there are no tokens."""
    server.answers = [json_answer({"tokens": []})]
    async with inside(make_client(server.base_url)) as client:
        with pytest.raises(octavo_client.APIResponseValidationError, match="count"):
            await settled(client.tokenize("a"))
