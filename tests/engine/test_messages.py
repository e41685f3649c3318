"""Every message survives the way to the other process, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest

from engine.channel import encode_frame
from engine.config import EngineConfig
from engine.info import EngineInfo
from engine.messages import (
    Abort,
    Add,
    Fatal,
    FromEngine,
    GetStats,
    Init,
    Loading,
    Ready,
    Stats,
    Step,
    ToEngine,
    are_alike,
)
from engine.request import (
    BeamSearch,
    ChoiceOutput,
    Failure,
    FinishReason,
    Request,
    SamplingParams,
    TokenLogprobs,
)
from engine.stats import EngineStats

REQUEST = Request(
    "cmpl-1",
    [1, 2, 3],
    SamplingParams(
        temperature=0.5,
        logit_bias={5: -100.0, 7: 1.5},
        seed=-(2**63),
        stop_token_ids=(2, 3),
        logprobs=0,
        prompt_logprobs=5,
        allowed_token_ids=(4, 5),
        bad_words=((4,), (5, 6, 7)),
    ),
    n=3,
    cache_salt="key",
    tenant="a",
)
LOGPROBS = TokenLogprobs(-0.25, 1, [4, 5], [-0.25, -9999.0])
OUTPUT = ChoiceOutput(
    "cmpl-1",
    2,
    [4],
    finish_reason=FinishReason.STOP,
    stop_token_id=4,
    logprobs=[LOGPROBS],
    prompt_logprobs=[None, LOGPROBS],
    num_cached_tokens=16,
    error=Failure("numerical_error", "a sentence"),
)
INFO = EngineInfo("llama", 49152, 135_000_000, 8192, "cpu", "bfloat16", "cpu", 9, 16, 64, 512, 0.5)


@pytest.mark.parametrize(
    "message",
    [
        Init(EngineConfig("model.gguf", device="cpu", kv_cache_memory=1 << 32)),
        Add(REQUEST),
        Add(REQUEST, [("cmpl-2", [0]), ("cmpl-3", [7, 8])]),
        Abort("cmpl-1"),
        Abort("cmpl-1", 2),
        GetStats(),
    ],
)
def test_commands(message: ToEngine) -> None:
    assert msgspec.msgpack.decode(encode_frame(message)[4:], type=ToEngine) == message


@pytest.mark.parametrize(
    "message",
    [
        Loading("reading the weights", 0.25),
        Ready(INFO),
        Step([OUTPUT, ChoiceOutput("cmpl-2", 0, [])]),
        Stats(EngineStats(num_running=3)),
        Fatal("no such file: model.gguf"),
    ],
)
def test_answers(message: FromEngine) -> None:
    assert msgspec.msgpack.decode(encode_frame(message)[4:], type=FromEngine) == message


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "Eval", "code": "1"},
        {"type": "Abort"},
        {"type": "Abort", "request_id": 1},
        {"type": "Add", "request": {"request_id": "a", "prompt_token_ids": ["x"]}},
        {"type": "Add", "request": {"request_id": "a", "prompt_token_ids": [1]}, "others": [["b"]]},
        {"type": "Step", "outputs": []},
    ],
)
def test_other_things_are_refused(body: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=ToEngine)


def test_requests_that_are_alike() -> None:
    requests = [
        replace(REQUEST, request_id=name, prompt_token_ids=[number])
        for number, name in enumerate("abc")
    ]
    assert all(are_alike(REQUEST, request) for request in requests)
    received = msgspec.msgpack.decode(encode_frame(Add.alike(requests))[4:], type=Add).requests
    assert received == requests
    assert len({id(request.sampling) for request in received}) == 1


@pytest.mark.parametrize(
    "difference",
    [
        {"sampling": replace(REQUEST.sampling, seed=1)},
        {"n": 2},
        {"cache_salt": "other"},
        {"priority": 1},
        {"beam_search": BeamSearch()},
        {"tenant": "b"},
    ],
)
def test_requests_that_are_not(difference: dict[str, Any]) -> None:
    assert not are_alike(REQUEST, replace(REQUEST, **difference))


def test_all_that_requests_may_differ_in_was_tried() -> None:
    assert {field.name for field in fields(Request)} == {
        *("request_id", "prompt_token_ids", "sampling", "n"),
        *("cache_salt", "priority", "beam_search", "tenant"),
    }
