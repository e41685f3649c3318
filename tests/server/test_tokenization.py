"""/tokenize, /detokenize and /tokenizer_info: round trips, and everything that is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from byte_tokenizer import BOS, EOS, SPECIAL
from fake_engine import INFO, FakeEngine
from live_app import live_app

from engine import open_checkpoint
from server.settings import Settings
from server.tokenizer import load_tokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"Content-Type": "application/json"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """The vocabulary is bytes: 256 begins a text, 257 ends it, 258 is `<special>`."""
    async with live_app(FakeEngine()) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def builtin(builtin_model: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The real vocabulary, in front of a fake engine."""
    tokenizer = load_tokenizer(open_checkpoint(builtin_model).tokenizer)
    engine = FakeEngine(info=replace(INFO, vocab_size=49152))
    async with live_app(engine, tokenizer=tokenizer) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    assert len(response.content) < 1000
    error: dict[str, Any] = body["error"]
    return error


async def tokens_of(client: httpx.AsyncClient, prompt: str, **options: Any) -> list[int]:
    response = await client.post("/tokenize", json={"prompt": prompt, **options})
    assert response.status_code == 200, response.text
    tokens: list[int] = response.json()["tokens"]
    return tokens


async def text_of(client: httpx.AsyncClient, tokens: list[int]) -> str:
    response = await client.post("/detokenize", json={"tokens": tokens})
    assert response.status_code == 200, response.text
    assert list(response.json()) == ["prompt"]
    text: str = response.json()["prompt"]
    return text


async def test_the_answer(client: httpx.AsyncClient) -> None:
    response = await client.post("/tokenize", json={"prompt": "h\u00e9"})
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "count": 4,
        "max_model_len": INFO.max_model_len,
        "tokens": [BOS, 104, 0xC3, 0xA9],
        "token_strs": None,
    }


async def test_the_texts_of_tokens(client: httpx.AsyncClient) -> None:
    body = {"prompt": "h\u00e9<special>", "return_token_strs": True}
    answer = (await client.post("/tokenize", json=body)).json()
    assert answer["token_strs"] == ["<s>", "h", "bytes:\\xc3", "bytes:\\xa9", "<special>"]


async def test_special_tokens_need_not_be_added(client: httpx.AsyncClient) -> None:
    assert await tokens_of(client, "h", add_special_tokens=False) == [104]
    assert await tokens_of(client, "", add_special_tokens=False) == []
    assert await tokens_of(client, "") == [BOS]
    # Those in the text are parsed all the same.
    assert await tokens_of(client, "<special>", add_special_tokens=False) == [SPECIAL]


async def test_special_tokens_have_their_names(client: httpx.AsyncClient) -> None:
    assert await text_of(client, [BOS, 104, SPECIAL, EOS]) == "<s>h<special></s>"
    assert await text_of(client, []) == ""
    # Bytes that are no text, and ids of the model that the vocabulary does not have.
    assert await text_of(client, [0xC3, 104, 299]) == "\ufffdh"


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Hello, world!",
        "na\u00efve caf\u00e9 \u2014 \u6f22\u5b57 \U0001f600",
        " leading and trailing  \n\n",
        "<|im_start|>user\nHi<|im_end|>\n",
        "\0\u2028\ufeff",
        "The capital of France is " * 4000,  # long enough for a thread
    ],
    ids=["empty", "ascii", "unicode", "spaces", "special", "odd", "long"],
)
@pytest.mark.parametrize("add_special_tokens", [True, False])
async def test_round_trips(
    builtin: httpx.AsyncClient, prompt: str, add_special_tokens: bool
) -> None:
    tokens = await tokens_of(builtin, prompt, add_special_tokens=add_special_tokens)
    text = await text_of(builtin, tokens)
    assert await tokens_of(builtin, text, add_special_tokens=False) == tokens
    if prompt:
        assert text == prompt


async def test_a_long_text_does_not_hold_up_others(builtin: httpx.AsyncClient) -> None:
    prompt = "The capital of France is \u00e9. " * 100_000
    long = asyncio.ensure_future(tokens_of(builtin, prompt, return_token_strs=True))
    num_answers = 0
    while not long.done():
        assert (await builtin.get("/health")).status_code == 200
        num_answers += 1
    tokens = long.result()
    assert num_answers > 10
    assert await text_of(builtin, tokens) == prompt


async def test_a_prompt_may_be_longer_than_the_context(client: httpx.AsyncClient) -> None:
    assert len(await tokens_of(client, "x" * 2_000_000)) == 2_000_001


async def test_as_many_ids_as_the_body_holds(client: httpx.AsyncClient) -> None:
    content = b'{"tokens":[' + b"65," * 1_300_000 + b"66]}"
    response = await client.post("/detokenize", content=content, headers=JSON)
    assert response.json()["prompt"] == "A" * 1_300_000 + "B"


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_five_megabytes_are_too_many(client: httpx.AsyncClient, path: str) -> None:
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Expect: 100-continue\r\nContent-Length: 5000000\r\n\r\n".encode()
    )
    answer = (await reader.read()).decode()  # to the end: the connection is closed
    writer.close()
    await writer.wait_closed()
    assert answer.startswith("HTTP/1.1 413")
    assert '"code":"request_too_large"' in answer
    assert "x-request-id:" in answer


TYPE, MISSING, UNKNOWN = "invalid_type", "missing_required_parameter", "unknown_parameter"
MIN, MAX = "integer_below_min_value", "integer_above_max_value"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        (TOKENIZE, "{}", "prompt", MISSING),
        (TOKENIZE, "[]", None, TYPE),
        (TOKENIZE, "null", None, TYPE),
        (TOKENIZE, '{"prompt": 5}', "prompt", TYPE),
        (TOKENIZE, '{"prompt": null}', "prompt", TYPE),
        (TOKENIZE, '{"prompt": ["a"]}', "prompt", TYPE),
        (TOKENIZE, '{"prompt": "a", "add_special_tokens": 1}', "add_special_tokens", TYPE),
        (TOKENIZE, '{"prompt": "a", "return_token_strs": "no"}', "return_token_strs", TYPE),
        (TOKENIZE, '{"prompt": "a", "model": 5}', "model", TYPE),
        (TOKENIZE, '{"prompt": "a", "model": ""}', "model", "string_below_min_length"),
        (TOKENIZE, '{"prompt": "a", "model": "other"}', None, "model_not_found"),
        (TOKENIZE, '{"prompt": "a", "foo": 1}', None, UNKNOWN),
        (TOKENIZE, '{"messages": [{"role": "user"}]}', "messages", "unsupported_parameter"),
        (TOKENIZE, '{"content": "a"}', None, UNKNOWN),
        (TOKENIZE, '{"content": "a", "prompt": "a"}', None, UNKNOWN),
        (TOKENIZE, '{"prompt": "\\ud800"}', None, None),
        (DETOKENIZE, "{}", "tokens", MISSING),
        (DETOKENIZE, "[]", None, TYPE),
        (DETOKENIZE, '{"tokens": 5}', "tokens", TYPE),
        (DETOKENIZE, '{"tokens": null}', "tokens", TYPE),
        (DETOKENIZE, '{"tokens": "a"}', "tokens", TYPE),
        (DETOKENIZE, '{"tokens": {"0": 1}}', "tokens", TYPE),
        (DETOKENIZE, '{"tokens": [1, "2"]}', "tokens[1]", TYPE),
        (DETOKENIZE, '{"tokens": [1, true]}', "tokens[1]", TYPE),
        (DETOKENIZE, '{"tokens": [1.0]}', "tokens[0]", TYPE),
        (DETOKENIZE, '{"tokens": [[1]]}', "tokens[0]", TYPE),
        (DETOKENIZE, '{"tokens": [1, 2, -1]}', "tokens[2]", MIN),
        (DETOKENIZE, '{"tokens": [1, 300]}', "tokens[1]", MAX),
        (DETOKENIZE, '{"tokens": [9223372036854775808]}', "tokens[0]", MAX),
        (DETOKENIZE, '{"tokens": [' + "9" * 4000 + "]}", "tokens[0]", MAX),
        (DETOKENIZE, '{"tokens": [' + '"a",' * 1_000_000 + '"a"]}', "tokens[0]", TYPE),
        (DETOKENIZE, '{"tokens": [' + "1," * 1_000_000 + "300]}", "tokens[1000000]", MAX),
        (DETOKENIZE, '{"tokens": [1], "model": "other"}', None, "model_not_found"),
        (DETOKENIZE, '{"tokens": [1], "prompt": "a"}', None, UNKNOWN),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_bodies(
    client: httpx.AsyncClient, path: str, body: str, param: str | None, code: str | None
) -> None:
    for prefix in ("", "/v1"):
        response = await client.post(prefix + path, content=body, headers=JSON)
        assert response.status_code == (404 if code == "model_not_found" else 400)
        error = error_of(response)
        assert (error["type"], error["param"], error["code"]) == (
            "invalid_request_error",
            param,
            code,
        ), error["message"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (
            TOKENIZE,
            {"prompt": "a", "return_tokens_strs": True},
            "Did you mean 'return_token_strs'?",
        ),
        (TOKENIZE, {"content": "a"}, "supplied: content. Did you mean 'prompt'?"),
        (DETOKENIZE, {"tokens": [1], "modell": "x"}, "Did you mean 'model'?"),
        (TOKENIZE, {"messages": []}, "'messages' (this server has no chat; use 'prompt')"),
    ],
)
async def test_a_wrong_name_gets_a_hint(
    client: httpx.AsyncClient, path: str, body: Any, message: str
) -> None:
    response = await client.post(path, json=body)
    assert error_of(response)["message"].rstrip(".").endswith(message)


async def test_unknown_parameters_may_be_allowed() -> None:
    async with live_app(FakeEngine(), Settings(allow_unknown_params=True)) as client:
        assert await tokens_of(client, "h", foo=1) == [BOS, 104]
        response = await client.post("/tokenize", json={"content": "h"})
        assert "Did you mean 'prompt'?" in error_of(response)["message"]


async def test_null_is_the_default(client: httpx.AsyncClient) -> None:
    options = {"model": None, "add_special_tokens": None, "return_token_strs": None}
    assert await tokens_of(client, "h", **options) == [BOS, 104]


async def test_tokens_do_not_need_the_engine() -> None:
    engine = FakeEngine()
    async with live_app(engine) as client:
        engine.is_ready = False
        assert await tokens_of(client, "h") == [BOS, 104]
        assert await text_of(client, [104]) == "h"


async def test_what_a_remote_tokenizer_reads(builtin: httpx.AsyncClient) -> None:
    info = (await builtin.get("/tokenizer_info")).json()
    template = info.pop("chat_template")
    assert "<|im_start|>" in template
    assert info == {
        "tokenizer_class": None,  # GGUF does not say
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "add_bos_token": False,
        "model_max_length": INFO.max_model_len,
    }
    # As lm-eval finds the ids.
    assert await tokens_of(builtin, info["eos_token"], add_special_tokens=False) == [2]


async def test_names_come_from_the_ids_where_the_model_gives_no_names(
    client: httpx.AsyncClient,
) -> None:
    info = (await client.get("/tokenizer_info")).json()
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>")
    assert info["add_bos_token"] is True
    assert (info["pad_token"], info["unk_token"], info["chat_template"]) == (None, None, None)


async def test_the_names_of_a_model_win(builtin_model: Path) -> None:
    data = open_checkpoint(builtin_model).tokenizer
    names = {"eos_token": "<|endoftext|>"}
    data = replace(data, special_tokens=names, tokenizer_class="GPT2Tokenizer")
    async with live_app(FakeEngine(), tokenizer=load_tokenizer(data)) as client:
        info = (await client.get("/tokenizer_info")).json()
    assert (info["eos_token"], info["bos_token"]) == ("<|endoftext|>", "<|im_start|>")
    assert (info["pad_token"], info["tokenizer_class"]) == (None, "GPT2Tokenizer")


async def test_the_answers_are_json_for_any_text(client: httpx.AsyncClient) -> None:
    text = '"\\\u2028\0\x7f\U0001f600'
    tokens = await tokens_of(client, text, add_special_tokens=False)
    assert bytes(tokens).decode() == text
    response = await client.post("/detokenize", json={"tokens": tokens})
    assert json.loads(response.content) == {"prompt": text}
