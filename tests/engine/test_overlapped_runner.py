"""The real runner with launches ahead of their results: every request gets the same tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_models import save_tiny_model

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import ChoiceOutput, Request, SamplingParams
from engine.runner import ModelRunner

GREEDY = SamplingParams(temperature=0.0, max_tokens=24)
DRAWN = SamplingParams(temperature=0.8, seed=11, max_tokens=24)
KINDS = [
    GREEDY,
    DRAWN,
    replace(GREEDY, logprobs=2, prompt_logprobs=1),
    replace(DRAWN, top_p=0.8, top_k=20),
    replace(DRAWN, repetition_penalty=1.3, frequency_penalty=0.5),
    replace(GREEDY, bad_words=((5,), (7, 9)), logit_bias={12: 3.0}),
    replace(DRAWN, stop_token_ids=tuple(range(3, 199, 9)), min_tokens=3, top_p=0.9),
]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    folder = tmp_path_factory.mktemp("llama")
    save_tiny_model("llama", folder)
    config = EngineConfig(
        str(folder), device="cpu", dtype="float32", kv_cache_memory=1 << 20, num_threads=1
    )
    return ModelRunner.load(config, lambda phase, fraction: None)


def run(runner: ModelRunner, max_launches: int) -> tuple[dict[tuple[str, int], object], int]:
    """What each choice was told, and the number of preemptions, of which there are some."""
    limits = replace(
        runner.scheduler_config,
        num_blocks=22,
        max_model_len=22 * 16,
        max_num_seqs=8,
        max_num_batched_tokens=48,
        max_drafts=0,
    )
    core = EngineCore(runner, limits, max_launches)
    for i in range(3 * len(KINDS)):
        prompt = [3 + (11 * (i % 5) + k * k) % 190 for k in range(20 + 7 * (i % 4))]
        kind = KINDS[i % len(KINDS)]
        core.add(Request(f"r{i}", prompt, kind, n=1 + i % 2))
    told: dict[tuple[str, int], list[ChoiceOutput]] = {}
    while core.has_work:
        for output in core.step():
            assert output.error is None
            told.setdefault((output.request_id, output.index), []).append(output)
    summary: dict[tuple[str, int], object] = {
        key: (
            [token_id for output in outputs for token_id in output.token_ids],
            [
                (entry.rank, entry.top_token_ids, pytest.approx(entry.logprob, abs=1e-5))
                for output in outputs
                for entry in output.logprobs or ()
            ],
            outputs[-1].finish_reason,
        )
        for key, outputs in told.items()
    }
    return summary, core.stats().num_preemptions


@pytest.mark.parametrize("max_launches", [2, 3])
def test_tokens_are_those_of_one_launch_at_a_time(runner: ModelRunner, max_launches: int) -> None:
    plain, _ = run(runner, 1)
    overlapped, num_preemptions = run(runner, max_launches)
    assert num_preemptions > 0
    assert len(plain) == 31
    assert overlapped == plain
