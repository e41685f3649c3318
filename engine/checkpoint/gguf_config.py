"""From GGUF metadata and tensor names to a `ModelConfig` and Hugging Face parameter names.

Knows the keys and the tensor names that llama.cpp's converter writes; reads no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.checkpoint import architecture as limits
from engine.checkpoint import gemma, gpt2
from engine.checkpoint.architecture import ARCHITECTURES, Architecture, check_config
from engine.checkpoint.fields import Fields, quote
from engine.checkpoint.gguf_rope import gguf_rope_scaling
from engine.checkpoint.model_config import ModelConfig
from engine.checkpoint.tensor_data import TensorData
from engine.errors import CheckpointError

_TOKENS = "tokenizer.ggml.tokens"
_LM_HEAD = "output.weight"
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    _LM_HEAD: "lm_head.weight",
}
_LAYER_TENSOR = re.compile(r"blk\.([0-9]{1,4})\.([a-z_]{1,32})\.(weight|bias)")
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Where one tensor holds several projections.
_FUSED_NAMES = _LAYER_NAMES | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
# Families all of whose layers have a window where the file gives one.
_WINDOWED = ("llama", "phi3")


# Names of layers, of their parts, and of what is not in them, by the family's name in GGUF.
_LLAMA_TABLE = ("model.layers", _LAYER_NAMES, _NAMES)
_GEMMA_NAMES = _LAYER_NAMES | {"ffn_norm": "pre_feedforward_layernorm"}
_TABLES = {
    "phi3": ("model.layers", _FUSED_NAMES, _NAMES),
    "gpt2": (gpt2.GGUF_LAYER, gpt2.GGUF_LAYER_NAMES, gpt2.GGUF_NAMES),
    "gemma2": ("model.layers", _GEMMA_NAMES, _NAMES),
    "gemma3": ("model.layers", _GEMMA_NAMES, _NAMES),
}


def huggingface_name(gguf_name: str, family: str = "llama") -> str:
    """The parameter's name; a name that is not known is returned as it is."""
    prefix, layer_names, names = _TABLES.get(family, _LLAMA_TABLE)
    if match := _LAYER_TENSOR.fullmatch(gguf_name):
        layer, name, suffix = match.groups()
        if name in layer_names:
            return f"{prefix}.{layer}.{layer_names[name]}.{suffix}"
    return names.get(gguf_name, gguf_name)


def gguf_architecture(metadata: Fields) -> Architecture:
    """The family, or CheckpointError naming those that are supported."""
    name = metadata.text("general.architecture")
    for architecture in ARCHITECTURES:
        if architecture.gguf_name == name:
            return architecture
    supported = ", ".join(dict.fromkeys(architecture.gguf_name for architecture in ARCHITECTURES))
    raise CheckpointError(
        f"{metadata.source}: the architecture {quote(name)} is not supported; "
        f"supported are {supported}"
    )


def gguf_config(
    metadata: Fields, architecture: Architecture, tensors: Mapping[str, TensorData]
) -> ModelConfig:
    """The model's shape. `tensors` go by their GGUF names."""
    prefix = architecture.gguf_name
    if metadata.integer(f"{prefix}.expert_count", 0, low=0) > 0:
        raise CheckpointError(f"{metadata.source}: mixtures of experts are not supported")
    if architecture.model == "gpt2":
        return gpt2.gguf_gpt2(metadata, _vocab_size(metadata, prefix), tensors)
    if architecture.model == "gemma":
        return gemma.gguf_gemma(metadata, architecture, _vocab_size(metadata, prefix), tensors)
    hidden_size = metadata.integer(f"{prefix}.embedding_length", high=limits.MAX_WIDTH)
    num_heads = metadata.integer(f"{prefix}.attention.head_count", high=limits.MAX_HEADS)
    head_dim = metadata.integer(
        f"{prefix}.attention.key_length", hidden_size // num_heads, high=limits.MAX_HEAD_DIM
    )
    key = f"{prefix}.attention.value_length"
    if metadata.integer(key, head_dim) != head_dim:
        raise metadata.error(key, f"must equal the head size {head_dim}")
    rotary_dim = _rotary_dim(metadata, architecture, head_dim)
    num_layers = metadata.integer(f"{prefix}.block_count", high=limits.MAX_LAYERS)
    rope_theta = metadata.number(f"{prefix}.rope.freq_base", 10_000.0, low=1.0)
    config = ModelConfig(
        architecture=architecture.model,
        vocab_size=_vocab_size(metadata, prefix),
        hidden_size=hidden_size,
        intermediate_size=metadata.integer(f"{prefix}.feed_forward_length", high=limits.MAX_WIDTH),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=metadata.integer(
            f"{prefix}.attention.head_count_kv", num_heads, high=limits.MAX_HEADS
        ),
        head_dim=head_dim,
        max_model_len=metadata.integer(f"{prefix}.context_length", high=limits.MAX_CONTEXT),
        norm_eps=metadata.number(f"{prefix}.attention.layer_norm_rms_epsilon", high=1.0),
        rope_theta=rope_theta,
        rope_scaling=gguf_rope_scaling(metadata, prefix, tensors, rope_theta, rotary_dim),
        rotary_dim=None if rotary_dim == head_dim else rotary_dim,
        still_layers=_still_layers(architecture, num_layers),
        windows=_windows(metadata, architecture, num_layers),
        qkv_bias=architecture.qkv_bias,
        qk_norm=architecture.qk_norm,
        tie_word_embeddings=_LM_HEAD not in tensors,
    )
    return check_config(config, metadata.source)


def _rotary_dim(metadata: Fields, architecture: Architecture, head_dim: int) -> int:
    key = f"{architecture.gguf_name}.rope.dimension_count"
    rotary_dim = metadata.integer(key, head_dim)
    if rotary_dim == head_dim:
        return head_dim
    if architecture.gguf_name != "phi3":
        raise metadata.error(key, f"must equal the head size {head_dim}")
    if rotary_dim > head_dim or rotary_dim % 2:
        raise metadata.error(key, f"must be even and at most the head size {head_dim}")
    return rotary_dim


def _still_layers(architecture: Architecture, num_layers: int) -> frozenset[int]:
    """The layers without rotary embedding, of which the format says nothing."""
    every = architecture.still_every
    return frozenset() if every is None else frozenset(range(every - 1, num_layers, every))


def _vocab_size(metadata: Fields, prefix: str) -> int:
    tokens = metadata.values.get(_TOKENS)
    num_tokens = len(tokens) if isinstance(tokens, list) else None
    return metadata.integer(f"{prefix}.vocab_size", num_tokens, high=limits.MAX_VOCAB_SIZE)


def _windows(
    metadata: Fields, architecture: Architecture, num_layers: int
) -> tuple[int | None, ...]:
    key = f"{architecture.gguf_name}.attention.sliding_window"
    window = metadata.integer(key, 0, low=0, high=1 << 32)
    if not window:
        return ()
    if architecture.gguf_name not in _WINDOWED or f"{key}_pattern" in metadata:
        raise metadata.error(key, "is set, which is not supported for this architecture")
    return (window,) * num_layers
