"""The built-in model, read from GGUF and run through pages, against transformers reading it too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from engine.batch import Batch, RowStart, ScheduledRow
from engine.config import EngineConfig
from engine.request import SamplingParams
from engine.runner import ModelRunner

# Ids of "The capital of France is", a line of code, and a short story's beginning.
PROMPTS = [
    [504, 3575, 282, 4649, 314],
    [1604, 22955, 24, 94, 731],
    [6403, 2238, 253, 655, 28, 281, 253, 1165, 7130, 28, 665, 436, 253],
]
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def oracle(builtin_model: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(
        builtin_model.parent, gguf_file=builtin_model.name, dtype=torch.float32
    ).eval()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_greedy_tokens_agree_with_transformers(
    builtin_model: Path, oracle: transformers.PreTrainedModel
) -> None:
    config = EngineConfig(
        str(builtin_model), device="cpu", dtype="float32", kv_cache_memory=64 << 20
    )
    runner = ModelRunner.load(config, lambda phase, fraction: None)
    sampling = SamplingParams(temperature=0.0)
    batch = Batch(
        starts=[RowStart(i, 0, sampling, ids, len(ids)) for i, ids in enumerate(PROMPTS)],
        rows=[
            ScheduledRow(i, 0, len(ids), ids, 0, [3 * i, 3 * i + 1, 3 * i + 2], True)
            for i, ids in enumerate(PROMPTS)
        ],
    )
    tokens: list[list[int]] = [[] for _ in PROMPTS]
    for step in range(NUM_TOKENS):
        for output, generated in zip(runner.launch(batch).wait(), tokens, strict=True):
            generated += output.token_ids
        rows = [
            ScheduledRow(i, len(ids) + step, 1, tokens[i][-1:], 3, [], True)
            for i, ids in enumerate(PROMPTS)
        ]
        batch = Batch(rows=rows)
    for prompt, generated in zip(PROMPTS, tokens, strict=True):
        with torch.inference_mode():
            logits = oracle(torch.tensor([prompt + generated])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == generated
