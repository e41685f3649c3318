"""The families of models that the engine can run, and the limits that every config must keep.

Each is served by the file in `engine/models/` that `model` names; Llama's serves those that differ
from it in data alone (`qkv_bias`, `qk_norm`).
"""

from __future__ import annotations

from dataclasses import dataclass

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

    `has_interleaved_rotary`: in GGUF, its query and key rows are in interleaved rotary order.
    """

    gguf_name: str
    huggingface_names: tuple[str, ...]
    qkv_bias: bool = False
    qk_norm: bool = False
    has_interleaved_rotary: bool = False
    model: str = "llama"


ARCHITECTURES = (
    Architecture("llama", ("LlamaForCausalLM", "MistralForCausalLM"), has_interleaved_rotary=True),
    Architecture("qwen2", ("Qwen2ForCausalLM",), qkv_bias=True),
    Architecture("qwen3", ("Qwen3ForCausalLM",), qk_norm=True),
    Architecture("gpt2", ("GPT2LMHeadModel",), model="gpt2"),
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
