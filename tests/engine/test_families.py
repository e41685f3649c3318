"""Every family against transformers on small random weights, in float32.

Logits of mixed steps and greedy tokens of whole generations: prompts cut into chunks, contexts past
the sliding window, prefixes from the cache.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import transformers
from agreement import assert_close, expected_logits, mixed_steps
from tiny_models import BareEngine, save_random_model
from torch import Tensor

from engine import EngineConfig, Request, SamplingParams
from engine.core import EngineCore
from engine.request import ChoiceOutput
from engine.runner import ModelRunner

VOCAB_SIZE = 160
WINDOW = 24
NUM_TOKENS = 12
# How far apart two logits must be for their order to be certain.
MARGIN = 1e-3


@dataclass(frozen=True)
class Family:
    """A transformers config, and the lengths of the prompts for which it is one model.

    LongRoPE is two models, one for short contexts and one for long ones: what is served decides
    here, the longest row of a batch there.
    """

    config: str
    keys: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] = (131, 5, 17, 70, 2 * WINDOW + 1)
    max_model_len: int = 256


def rope(kind: str, **keys: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10_000.0, **keys}


LLAMA3 = rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=64)
LONGROPE = rope(
    "longrope",
    short_factor=[1.0, 1.05, 1.1, 1.3, 1.4, 1.5, 1.6, 2.0],
    long_factor=[1.0, 1.3, 1.9, 3.0, 4.5, 7.0, 9.0, 12.0],
)
PHI4 = rope(
    "longrope",
    partial_rotary_factor=0.75,
    short_factor=[1.0, 1.05, 1.1, 1.3, 1.4, 1.5],
    long_factor=[1.0, 1.3, 1.9, 3.0, 4.5, 7.0],
)
FAMILIES = {
    "llama2": Family("LlamaConfig", {"num_key_value_heads": 4}),
    "llama3": Family("LlamaConfig", {"rope_parameters": rope("default", rope_theta=500_000.0)}),
    "llama3.1": Family("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama3.2": Family("LlamaConfig", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "linear": Family("LlamaConfig", {"rope_parameters": rope("linear", factor=3.0)}),
    "yarn": Family("LlamaConfig", {"rope_parameters": YARN}),
    "yarn-with-all-keys": Family(
        "LlamaConfig",
        {
            "rope_parameters": {
                **YARN,
                "beta_fast": 8.0,
                "beta_slow": 2.0,
                "mscale": 0.9,
                "mscale_all_dim": 0.5,
                "truncate": False,
            }
        },
    ),
    "yarn-attention": Family("LlamaConfig", {"rope_parameters": {**YARN, "attention_factor": 1.4}}),
    "smollm2": Family("LlamaConfig", {"tie_word_embeddings": True, "num_attention_heads": 6}),
    "smollm3": Family("SmolLM3Config", {"num_hidden_layers": 4}),
    "smollm3-window": Family(
        "SmolLM3Config",
        {"no_rope_layers": [0, 1], "use_sliding_window": True, "sliding_window": WINDOW},
    ),
    "mistral": Family("MistralConfig", {"sliding_window": WINDOW}),
    "mistral-without-window": Family("MistralConfig", {"sliding_window": None}),
    "qwen2": Family("Qwen2Config"),
    "qwen2-window": Family(
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": Family("Qwen3Config", {"tie_word_embeddings": True}),
    "qwen3-window": Family(
        "Qwen3Config",
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "phi3": Family("Phi3Config", {"sliding_window": WINDOW}),
    "phi3-short": Family(
        "Phi3Config",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 96},
        lengths=(70, 5, 17),
        max_model_len=96,
    ),
    "phi3-long": Family(
        "Phi3Config",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 32},
        lengths=(131, 40, 33, 61),
    ),
    "phi4-mini": Family(
        "Phi3Config",
        {"rope_parameters": PHI4, "original_max_position_embeddings": 32},
        lengths=(131, 40, 33, 61),
    ),
    "olmo2": Family("Olmo2Config"),
}
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Saved:
    """A family's model in a folder, and as transformers has it."""

    family: Family
    folder: Path
    oracle: transformers.PreTrainedModel

    @property
    def prompts(self) -> list[list[int]]:
        rng = random.Random(3)  # noqa: S311
        return [rng.choices(range(3, VOCAB_SIZE), k=length) for length in self.family.lengths]

    def logits(self, token_ids: list[int]) -> Tensor:
        return expected_logits(self.oracle, token_ids)


# What others have in common with these is tested with every change, the rest by `make test-slow`.
VARIANTS = {
    *("llama2", "smollm2", "linear", "yarn-with-all-keys", "yarn-attention", "phi3-short"),
    *("mistral-without-window", "qwen2", "qwen3"),
}


def family_params() -> list[Any]:
    marks = {name: [pytest.mark.slow] if name in VARIANTS else [] for name in FAMILIES}
    return [pytest.param(name, marks=marks[name]) for name in FAMILIES]


@pytest.fixture(scope="module", params=family_params())
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    family = FAMILIES[request.param]
    keys = {**SIZES, **family.keys}
    if keys["num_attention_heads"] == 6:
        keys["hidden_size"] = 96
    folder = tmp_path_factory.mktemp("model")
    return Saved(family, folder, save_random_model(family.config, keys, folder))


def test_logits_of_mixed_steps(saved: Saved) -> None:
    """Prompts in pieces of all sizes, each beside the pieces of others."""
    engine = BareEngine(saved.folder, num_rows=8, max_model_len=saved.family.max_model_len)
    prompts = saved.prompts
    for prompt, logits in zip(prompts, mixed_steps(engine, prompts), strict=True):
        assert_close(logits, saved.logits(prompt))


def test_greedy_tokens_first_computed_then_cached(saved: Saved) -> None:
    config = EngineConfig(
        model_path=str(saved.folder),
        device="cpu",
        dtype="float32",
        kv_cache_memory=4 << 20,
        max_num_batched_tokens=40,
        max_num_seqs=2,
        max_model_len=saved.family.max_model_len,
    )
    runner = ModelRunner.load(config, lambda *_: None)
    core = EngineCore(runner, runner.scheduler_config)
    sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS)
    prompts = saved.prompts[:3]
    num_certain = 0
    for num_runs in range(2):
        for i, prompt in enumerate(prompts):
            core.add(Request(f"{num_runs}-{i}", prompt, sampling))
        outputs: dict[str, list[ChoiceOutput]] = {}
        while core.has_work:
            for output in core.step():
                outputs.setdefault(output.request_id, []).append(output)
        for i, prompt in enumerate(prompts):
            parts = outputs[f"{num_runs}-{i}"]
            if num_runs and len(prompt) > core.scheduler.config.block_size:
                assert parts[0].num_cached_tokens
            answer = [token_id for part in parts for token_id in part.token_ids]
            assert len(answer) == NUM_TOKENS
            logits = saved.logits([*prompt, *answer[:-1]])[len(prompt) - 1 :]
            best = logits.topk(2)
            for token_id, ids, values in zip(answer, best.indices, best.values, strict=True):
                if values[0] - values[1] > MARGIN:
                    assert token_id == ids[0]
                    num_certain += 1
    assert num_certain > 0.9 * 2 * NUM_TOKENS * len(prompts)
