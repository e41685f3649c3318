"""One GGUF file of every family, written by the `gguf` package, read by transformers and by us.

Small random weights in float32, mixed steps. Where transformers has no such family, or leaves out
what the file says, the model that the file was made of stands in for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from agreement import assert_close, check_mixed_steps, expected_logits, random_ids
from gguf_models import write_gguf_model
from tiny_models import BareEngine, save_random_model

WINDOW = 40
SIZES: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LENGTHS = (131, 5, 17, 70)


@dataclass(frozen=True)
class Row:
    """`architecture` in GGUF, the class of the transformers config, what it has beside `SIZES`."""

    architecture: str
    config: str
    keys: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] = LENGTHS

    def save(self, folder: Path) -> tuple[Path, transformers.PreTrainedModel]:
        """The file, and the model that it was made of."""
        original = save_random_model(self.config, {**SIZES, **self.keys}, folder / "folder")
        return write_gguf_model(folder / "m.gguf", self.architecture, original), original


def rope(kind: str, **keys: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10_000.0, **keys}


# transformers reads no `attention.key_length` of Qwen3 and takes 128; no `query_pre_attn_scalar`
# is in GGUF, for which it takes 256, and llama.cpp the size of a head; no soft caps of Gemma 2, for
# which it takes 50 and 30. Files that agree with that are of those sizes.
READ_BY_BOTH = {
    "llama3": Row("llama", "LlamaConfig", {"rope_parameters": rope("default", rope_theta=5e5)}),
    "llama-tied": Row(
        "llama", "LlamaConfig", {"tie_word_embeddings": True, "num_key_value_heads": 4}
    ),
    "llama-wide-heads": Row("llama", "LlamaConfig", {"head_dim": 32}),
    # Which it reads as a Llama; a file whose `general.name` is "mistral", it cannot load at all.
    "mistral": Row("llama", "MistralConfig", {"sliding_window": None}),
    "qwen2": Row("qwen2", "Qwen2Config", {"rope_parameters": rope("default", rope_theta=1e6)}),
    "qwen3": Row("qwen3", "Qwen3Config", {"head_dim": 128, "tie_word_embeddings": True}),
    "phi3": Row("phi3", "Phi3Config"),
    # It takes 1024 positions, whatever the file says.
    "gpt2": Row("gpt2", "GPT2Config", {"max_position_embeddings": 1024}),
    "gemma2": Row(
        "gemma2",
        "Gemma2Config",
        {"head_dim": 256, "sliding_window": WINDOW, "initializer_range": 0.1},
    ),
    "gemma3": Row(
        "gemma3",
        "Gemma3TextConfig",
        {
            "head_dim": 256,
            "num_hidden_layers": 7,
            "sliding_window": WINDOW,
            "initializer_range": 0.1,
        },
    ),
}
LLAMA3 = rope(
    "llama3",
    factor=32.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=8.0)
PHI4 = rope(
    "longrope",
    partial_rotary_factor=0.75,
    short_factor=[1.0, 1.05, 1.1, 1.3, 1.4, 1.5],
    long_factor=[1.0, 1.3, 1.9, 3.0, 4.5, 7.0],
)
READ_BY_US = {
    # Not in transformers' table of architectures.
    "smollm3": Row("smollm3", "SmolLM3Config", {"num_hidden_layers": 4}),
    "olmo2": Row("olmo2", "Olmo2Config"),
    "gemma": Row("gemma", "GemmaConfig", {"head_dim": 32, "initializer_range": 0.1}),
    # It knows no `attention.sliding_window` of these, no `rope.scaling.*` of any of ours, no
    # tensors of divisors.
    "mistral-window": Row("llama", "MistralConfig", {"sliding_window": WINDOW}),
    "phi3-window": Row("phi3", "Phi3Config", {"sliding_window": WINDOW}),
    "llama3.2": Row("llama", "LlamaConfig", {"rope_parameters": LLAMA3}),
    "linear": Row("llama", "LlamaConfig", {"rope_parameters": rope("linear", factor=3.0)}),
    "qwen2-yarn": Row("qwen2", "Qwen2Config", {"rope_parameters": YARN}),
    "phi4-mini": Row(
        "phi3",
        "Phi3Config",
        {"rope_parameters": PHI4, "original_max_position_embeddings": 32},
        lengths=(131, 40, 33),  # past 32, where transformers takes the long divisors, too
    ),
    # Heads of other sizes, soft caps, rotary frequencies: see above.
    "qwen3-narrow-heads": Row("qwen3", "Qwen3Config"),
    "gemma2-caps": Row(
        "gemma2",
        "Gemma2Config",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 2.5,
            "initializer_range": 0.1,
        },
    ),
    "gemma3-scaled": Row(
        "gemma3",
        "Gemma3TextConfig",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "num_hidden_layers": 7,
            "sliding_window": WINDOW,
            "initializer_range": 0.1,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            },
        },
    ),
}


@pytest.mark.parametrize("row", READ_BY_BOTH.values(), ids=READ_BY_BOTH)
def test_a_file_read_by_both(row: Row, tmp_path: Path) -> None:
    path, original = row.save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    token_ids = random_ids(9, 100)
    # Else the file is not the model's, and both may be wrong together.
    assert_close(expected_logits(theirs, token_ids), expected_logits(original, token_ids))
    check_mixed_steps(BareEngine(path), theirs, list(row.lengths))


@pytest.mark.parametrize("row", READ_BY_US.values(), ids=READ_BY_US)
def test_a_file_read_by_us(row: Row, tmp_path: Path) -> None:
    path, original = row.save(tmp_path)
    check_mixed_steps(BareEngine(path, max_model_len=256), original, list(row.lengths))
