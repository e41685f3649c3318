"""From GGUF metadata and tensor names to a `ModelConfig` and Hugging Face parameter names.

Knows the keys and the tensor names that llama.cpp's converter writes; reads no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from engine.checkpoint import architecture as limits
from engine.checkpoint import gpt2
from engine.checkpoint.architecture import ARCHITECTURES, Architecture, check_config
from engine.checkpoint.fields import Fields, quote
from engine.checkpoint.model_config import ModelConfig, RopeScaling
from engine.checkpoint.quantization import dequantize
from engine.checkpoint.tensor_data import TensorData
from engine.errors import CheckpointError

ROPE_FACTORS = "rope_freqs.weight"
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
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


_TABLES = {
    "llama": ("model.layers", _LAYER_NAMES, _NAMES),
    "gpt2": (gpt2.GGUF_LAYER, gpt2.GGUF_LAYER_NAMES, gpt2.GGUF_NAMES),
}


def huggingface_name(gguf_name: str, model: str = "llama") -> str:
    """The parameter's name in `model`; a name that is not known is returned as it is."""
    prefix, layer_names, names = _TABLES[model]
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
    supported = ", ".join(architecture.gguf_name for architecture in ARCHITECTURES)
    raise CheckpointError(
        f"{metadata.source}: the architecture {quote(name)} is not supported; "
        f"supported are {supported}"
    )


def gguf_config(
    metadata: Fields, architecture: Architecture, tensors: Mapping[str, TensorData]
) -> ModelConfig:
    """The model's shape. `tensors` go by their GGUF names."""
    if metadata.integer("split.count", 1, low=0, high=1 << 16) > 1:
        raise CheckpointError(
            f"{metadata.source}: one part of a split model; join the parts with "
            "`llama-gguf-split --merge`"
        )
    prefix = architecture.gguf_name
    if metadata.integer(f"{prefix}.expert_count", 0, low=0) > 0:
        raise CheckpointError(f"{metadata.source}: mixtures of experts are not supported")
    if architecture.model == "gpt2":
        return gpt2.gguf_gpt2(metadata, _vocab_size(metadata, prefix), tensors)
    hidden_size = metadata.integer(f"{prefix}.embedding_length", high=limits.MAX_WIDTH)
    num_heads = metadata.integer(f"{prefix}.attention.head_count", high=limits.MAX_HEADS)
    head_dim = metadata.integer(
        f"{prefix}.attention.key_length", hidden_size // num_heads, high=limits.MAX_HEAD_DIM
    )
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.integer(f"{prefix}.{key}", head_dim) != head_dim:
            raise metadata.error(f"{prefix}.{key}", f"must equal the head size {head_dim}")
    config = ModelConfig(
        architecture="llama",
        vocab_size=_vocab_size(metadata, prefix),
        hidden_size=hidden_size,
        intermediate_size=metadata.integer(f"{prefix}.feed_forward_length", high=limits.MAX_WIDTH),
        num_layers=metadata.integer(f"{prefix}.block_count", high=limits.MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=metadata.integer(
            f"{prefix}.attention.head_count_kv", num_heads, high=limits.MAX_HEADS
        ),
        head_dim=head_dim,
        max_model_len=_max_model_len(metadata, prefix),
        rms_norm_eps=metadata.number(f"{prefix}.attention.layer_norm_rms_epsilon", high=1.0),
        rope_theta=metadata.number(f"{prefix}.rope.freq_base", 10_000.0, low=1.0),
        rope_scaling=_rope_scaling(metadata, prefix),
        qkv_bias=architecture.qkv_bias,
        qk_norm=architecture.qk_norm,
        tie_word_embeddings=_LM_HEAD not in tensors,
    )
    if ROPE_FACTORS in tensors:
        config = replace(
            config, rope_scaling=_llama3_scaling(config, tensors[ROPE_FACTORS], metadata.source)
        )
    return check_config(config, metadata.source)


def _vocab_size(metadata: Fields, prefix: str) -> int:
    tokens = metadata.values.get(_TOKENS)
    num_tokens = len(tokens) if isinstance(tokens, list) else None
    return metadata.integer(f"{prefix}.vocab_size", num_tokens, high=limits.MAX_VOCAB_SIZE)


def _max_model_len(metadata: Fields, prefix: str) -> int:
    length = metadata.integer(f"{prefix}.context_length", high=limits.MAX_CONTEXT)
    # Up to the window's length, attention with a sliding window is attention without one.
    window = metadata.integer(f"{prefix}.attention.sliding_window", 0, low=0, high=1 << 32)
    return min(length, window) if window else length


def _rope_scaling(metadata: Fields, prefix: str) -> RopeScaling | None:
    key = f"{prefix}.rope.scaling.type"
    kind = metadata.text(key, "none")
    if kind == "none":
        return None
    if kind != "linear":
        raise metadata.error(key, f"is {quote(kind)}; supported are none and linear")
    return RopeScaling("linear", metadata.number(f"{prefix}.rope.scaling.factor", low=1.0))


def _llama3_scaling(config: ModelConfig, tensor: TensorData, source: str) -> RopeScaling:
    """The Llama 3 scaling whose divisors the tensor lists, one for each pair of a head.

    The converter drops the parameters and keeps the divisors. All Llama 3 models share three of
    the four parameters (our defaults) and the largest divisor is the fourth, so they can be
    found again, and are believed only if they give the same divisors.
    """
    refusal = CheckpointError(f"{source}: {ROPE_FACTORS} is not a Llama 3 rotary scaling")
    if tensor.shape != (config.head_dim // 2,):
        raise refusal
    divisors = dequantize(tensor)
    scaling = RopeScaling("llama3", factor=float(divisors.max()))
    if not 1.0 <= scaling.factor <= 1e6:
        raise refusal
    pairs = np.arange(0, config.head_dim, 2) / config.head_dim
    wavelengths = 2 * np.pi * config.rope_theta**pairs
    rotations = scaling.original_max_position_embeddings / wavelengths
    smooth = (rotations - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = np.clip(smooth, 0.0, 1.0)
    if not np.allclose(divisors, 1 / ((1 - smooth) / scaling.factor + smooth), rtol=1e-4):
        raise refusal
    return scaling
