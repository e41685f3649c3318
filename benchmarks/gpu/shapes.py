"""Models by their public shapes: a config.json each, no weights (they are made up at load).

The two of the published figures, and small ones of the same structure for runs that only show that
everything works. Imports nothing of ours: the peers read it in environments of their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What the model cards of Qwen/Qwen3-0.6B and meta-llama/Llama-3.1-8B say.
QWEN3_0_6B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
LLAMA_3_1_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
_TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 16384,
    "vocab_size": 512,
}
# For comparing tokens: sizes that every kernel takes, weights small enough to make in a second.
_SMALL: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 16384,
    "vocab_size": 4096,
}

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": QWEN3_0_6B,
    "llama-3.1-8b": LLAMA_3_1_8B,
    "qwen3-small": {**QWEN3_0_6B, **_SMALL},
    "llama-small": {**LLAMA_3_1_8B, **_SMALL},
    "qwen3-tiny": {**QWEN3_0_6B, **_TINY},
    "llama-tiny": {**LLAMA_3_1_8B, **_TINY},
}


def write_config(shape: str, folder: Path) -> Path:
    """A model folder with a config alone, in `folder`; its path."""
    model = folder / shape
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text(json.dumps(SHAPES[shape], indent=2))
    return model
