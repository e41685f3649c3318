"""The families of models that the engine can run, and the limits that every config must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.checkpoint.model_config import ModelConfig
from engine.errors import CheckpointError

# Bounds on what a config may claim; they keep a hostile one from costing time before the shapes
# of the weights expose it.
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HEAD_DIM = 1024
MAX_WIDTH = 1 << 20
MAX_VOCAB_SIZE = 1 << 22
MAX_CONTEXT = 1 << 26


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family by the names that the formats give it, and what is special about it.

    `model` names the file in `engine/models/`. `has_interleaved_rotary`: in GGUF, its query and key
    rows are in interleaved rotary order. `is_fused`: one tensor holds queries, keys and values, one
    both matrices of the gate. `still_every`: where the config does not say which layers go without
    rotary embedding, it is each such one (4: the fourth, the eighth..).

    `windows` says which layers of a Hugging Face config have its `sliding_window`: "never" any;
    "always" all, if it is set; "chosen" ones, if `use_sliding_window` is true. Of those, it is
    the ones that `layer_types` names, else those from `max_window_layers` on.
    `default_window` stands in for a `sliding_window` that the config leaves out.
    """

    gguf_name: str
    huggingface_names: tuple[str, ...]
    model: str = "llama"
    qkv_bias: bool = False
    qk_norm: bool = False
    has_interleaved_rotary: bool = False
    is_fused: bool = False
    windows: Literal["never", "always", "chosen"] = "never"
    default_window: int | None = None
    rope_theta: float = 10_000.0
    still_every: int | None = None


# Several may share a GGUF name, whose first row is then read.
ARCHITECTURES = (
    Architecture("llama", ("LlamaForCausalLM",), has_interleaved_rotary=True),
    Architecture("llama", ("MistralForCausalLM",), windows="always", default_window=4096),
    Architecture(
        "qwen2", ("Qwen2ForCausalLM",), qkv_bias=True, windows="chosen", default_window=4096
    ),
    Architecture(
        "qwen3", ("Qwen3ForCausalLM",), qk_norm=True, windows="chosen", default_window=4096
    ),
    Architecture(
        "smollm3",
        ("SmolLM3ForCausalLM",),
        has_interleaved_rotary=True,
        windows="chosen",
        rope_theta=2_000_000.0,
        still_every=4,
    ),
    Architecture("phi3", ("Phi3ForCausalLM",), is_fused=True, windows="always"),
    Architecture("olmo2", ("Olmo2ForCausalLM",), model="olmo2"),
    Architecture("gpt2", ("GPT2LMHeadModel",), model="gpt2"),
    Architecture("gemma", ("GemmaForCausalLM",), model="gemma"),
    Architecture("gemma2", ("Gemma2ForCausalLM",), model="gemma"),
    Architecture("gemma3", ("Gemma3ForCausalLM",), model="gemma", rope_theta=1_000_000.0),
)


def check_config(config: ModelConfig, source: str) -> ModelConfig:
    """The config itself, or CheckpointError when its sizes do not fit each other."""
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"{source}: {config.num_heads} attention heads cannot share "
            f"{config.num_kv_heads} key-value heads evenly"
        )
    if config.head_dim % 2:
        raise CheckpointError(
            f"{source}: rotary embedding needs an even head size, not {config.head_dim}"
        )
    return config
