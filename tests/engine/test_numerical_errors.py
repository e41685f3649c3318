"""A model whose numbers go wrong for some requests: these fail, and nobody else notices."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import save_tiny_model

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import ChoiceOutput, FinishReason, Request, SamplingParams
from engine.runner import ModelRunner

POISON = 50  # where this token is, everything after it is NaN
PROMPT = [7, 99, 12, 150, 31]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    folder = tmp_path_factory.mktemp("poisoned")
    model = save_tiny_model("llama", folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = math.nan
    model.save_pretrained(folder)
    config = EngineConfig(
        str(folder), device="cpu", dtype="float32", kv_cache_memory=1 << 20, num_threads=1
    )
    return ModelRunner.load(config, lambda phase, fraction: None)


def run(core: EngineCore, *requests: Request) -> dict[str, list[ChoiceOutput]]:
    outputs: dict[str, list[ChoiceOutput]] = {request.request_id: [] for request in requests}
    for request in requests:
        core.add(request)
    while core.has_work:
        for output in core.step():
            outputs[output.request_id].append(output)
        core.scheduler.check_integrity()
    return outputs


def request(name: str, prompt: list[int], **sampling: object) -> Request:
    params = SamplingParams(
        temperature=0.0,
        max_tokens=12,
        **sampling,  # type: ignore[arg-type]
    )
    return Request(name, prompt, params)


def tokens(outputs: list[ChoiceOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]


@pytest.mark.parametrize("max_launches", [1, 2])
def test_requests_fail_alone_with_a_code(runner: ModelRunner, max_launches: int) -> None:
    def core() -> EngineCore:
        return EngineCore(runner, runner.scheduler_config, max_launches)

    good = [
        request("plain", PROMPT, logit_bias={POISON: -100.0}),
        request("long", PROMPT * 9, logit_bias={POISON: -100.0}, logprobs=2),
    ]
    alone = {one.request_id: run(core(), one)[one.request_id] for one in good}
    together = run(
        core(),
        request("prompt", [7, POISON, 9]),
        good[0],
        request("scored", [POISON, 8, 9], prompt_logprobs=1),
        good[1],
        request("later", PROMPT, logit_bias={POISON: 100.0}, logprobs=0),
    )
    for name, num_tokens in (("prompt", 0), ("scored", 0), ("later", 1)):
        *before, last = together[name]
        assert tokens(before) == [POISON] * num_tokens
        assert last.finish_reason is FinishReason.ERROR and last.token_ids == []
        assert last.error is not None and last.error.code == "numerical_error"
        assert "invalid numbers" in last.error.message
    for name, outputs in alone.items():
        assert tokens(together[name]) == tokens(outputs)
        assert len(tokens(outputs)) == 12
        assert together[name][-1].finish_reason is FinishReason.LENGTH
