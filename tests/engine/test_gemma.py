"""Gemma, Gemma 2 and Gemma 3 (text) against transformers: folders, and quantized GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from agreement import (
    check_greedy_tokens,
    check_mixed_steps,
    check_neighbours_change_no_bit,
    check_whole_prompt,
    expected_logits,
    random_ids,
)
from gguf_models import write_gguf_model
from tiny_models import BareEngine, Chunk, save_random_model

from engine.checkpoint import open_checkpoint
from engine.kernels import select

WINDOW = 40
SIZES: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
# Soft caps that bend the numbers of such small models, a scale that is not that of a head.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("GemmaConfig", {}),
    "gemma2": (
        "Gemma2Config",
        {
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 2.5,
        },
    ),
    "gemma2-uncapped": (
        "Gemma2Config",
        {
            "sliding_window": WINDOW,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {"sliding_window": WINDOW, "sliding_window_pattern": 3, "query_pre_attn_scalar": 16},
    ),
    "gemma3-scaled": (
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 7,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 32,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            },
        },
    ),
}
Saved = tuple[Path, transformers.PreTrainedModel]


def save(name: str, folder: Path) -> transformers.PreTrainedModel:
    config_name, changes = CONFIGS[name]
    return save_random_model(config_name, {**SIZES, **changes}, folder)


@pytest.fixture(scope="module", params=list(CONFIGS))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, save(request.param, folder)


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_logits_agree(saved: Saved, kernels: str) -> None:
    engine = BareEngine(saved[0], kernels=kernels)
    check_whole_prompt(engine, saved[1], 300)
    check_mixed_steps(engine, saved[1], [290, 5, 17, 131])
    check_neighbours_change_no_bit(engine, 200)


def test_greedy_tokens_agree(saved: Saved) -> None:
    check_greedy_tokens(*saved, prompt_len=120)


def test_what_is_in_the_config_matters(saved: Saved) -> None:
    """So that agreement says something: windows, caps and scales change the logits."""
    folder, oracle = saved
    config = open_checkpoint(folder).config
    token_ids = random_ids(1, 200)
    expected = expected_logits(oracle, token_ids)
    spread = expected.std()
    values = json.loads((folder / "config.json").read_bytes())
    changes: list[dict[str, object]] = [{"rms_norm_eps": 0.1}]
    if any(config.windows):
        changes.append({"sliding_window": 2 * WINDOW})
    if config.attention_soft_cap is not None:
        changes.append({"attn_logit_softcapping": None})
    if config.logit_soft_cap is not None:
        changes.append({"final_logit_softcapping": None})
    if config.attention_scale is not None:
        changes.append({"query_pre_attn_scalar": 99})
    original = (folder / "config.json").read_bytes()
    try:
        for change in changes:
            (folder / "config.json").write_text(json.dumps(values | change))
            [logits] = BareEngine(folder).run([Chunk(0, token_ids, 0)])
            assert (logits - expected).abs().max() > 0.01 * spread, change
    finally:
        (folder / "config.json").write_bytes(original)


def test_bfloat16_is_near_float32(saved: Saved) -> None:
    folder, _ = saved
    token_ids = random_ids(4, 150)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="eager"
    )
    expected = expected_logits(theirs, token_ids).float()
    [actual] = BareEngine(folder, dtype=torch.bfloat16).run([Chunk(0, token_ids, 0)])
    assert (actual - expected).abs().mean() < 0.05 * expected.std()


def test_quantized_gguf_stays_quantized(tmp_path: Path) -> None:
    if not select(torch.device("cpu"), torch.bfloat16).takes_grouped(32):
        pytest.skip("this processor has no such instructions, or there is no compiler")
    oracle = save("gemma3-scaled", tmp_path / "folder")
    path = write_gguf_model(tmp_path / "m.gguf", "gemma3", oracle, lambda _: "Q8_0")
    engine = BareEngine(path, dtype=torch.bfloat16)
    token_ids = random_ids(5, 150)
    [logits] = engine.run([Chunk(0, token_ids, 0)])
    assert "8-bit weights" in engine.kernels.describe()
    expected = expected_logits(oracle, token_ids)
    assert (logits - expected).norm() < 0.2 * expected.norm()
