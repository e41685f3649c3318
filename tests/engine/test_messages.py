"""Every message survives the way to the other process, and nothing else is taken for one."""

from __future__ import annotations

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
)
from engine.request import (
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
        Add([REQUEST, Request("cmpl-2", [0])]),
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
        {"type": "Add", "requests": [{"request_id": "a", "prompt_token_ids": ["x"]}]},
        {"type": "Step", "outputs": []},
    ],
)
def test_other_things_are_refused(body: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=ToEngine)
