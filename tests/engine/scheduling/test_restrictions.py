"""Allowed tokens and bad words through the whole engine: overlapped launches and preemptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import save_tiny_model

from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import Request, SamplingParams
from engine.runner import ModelRunner

ALLOWED = (20, 21, 22)
# Every token drawn is the beginning of one of them.
WORDS = ((20, 20), (21, 22), (22, 20, 21))
PROMPT = [20, 20, 21, 22] * 3


@pytest.mark.parametrize("max_launches", [1, 2])
def test_they_hold_over_preemptions(tmp_path: Path, max_launches: int) -> None:
    save_tiny_model("llama", tmp_path)
    config = EngineConfig(
        str(tmp_path), device="cpu", dtype="float32", kv_cache_memory=1 << 20, num_threads=1
    )
    runner = ModelRunner.load(config, lambda phase, fraction: None)
    # Six sequences of six pages each in twelve pages.
    limits = replace(runner.scheduler_config, num_blocks=12, max_model_len=96)
    core = EngineCore(runner, limits, max_launches)
    sampling = SamplingParams(
        temperature=5.0, max_tokens=80, allowed_token_ids=ALLOWED, bad_words=WORDS
    )
    for seed in range(6):
        core.add(Request(str(seed), PROMPT, replace(sampling, seed=seed)))
    drawn: dict[str, list[int]] = {str(seed): [] for seed in range(6)}
    while core.has_work:
        for output in core.step():
            assert output.error is None
            drawn[output.request_id] += output.token_ids
    assert core.stats().num_preemptions > 3
    for token_ids in drawn.values():
        assert len(token_ids) == 80
        assert set(token_ids) == set(ALLOWED)
        for word in WORDS:
            ends = range(len(word), len(token_ids) + 1)
            assert all(tuple(token_ids[end - len(word) : end]) != word for end in ends)
    assert len({tuple(token_ids) for token_ids in drawn.values()}) == 6
