"""Gemma, Gemma 2 and Gemma 3 as both formats write them: their configs, and their norms.

Gemma Team, 2024 and 2025. Norms multiply by 1 + weight: GGUF stores the sum, a Hugging Face folder
the weight; here it is the sum. Other than Gemma, the later ones have a norm after attention and
after the MLP too, and windows in some of their layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.checkpoint import architecture as limits
from engine.checkpoint.architecture import Architecture, check_config
from engine.checkpoint.fields import Fields, quote
from engine.checkpoint.gguf_rope import gguf_rope_scaling
from engine.checkpoint.huggingface_rope import huggingface_rope
from engine.checkpoint.model_config import ModelConfig
from engine.checkpoint.quantization import dequantize
from engine.checkpoint.tensor_data import TensorData

# What is called so is GELU by its approximation with tanh, "gelu" in the oldest configs too.
_ACTIVATIONS = ("gelu_pytorch_tanh", "gelu")
_UNSUPPORTED_FLAGS = ("attention_bias", "use_bidirectional_attention")
_MAX_SCALAR = 1e6


@dataclass(frozen=True, slots=True)
class _Generation:
    """What the formats leave out where it is as it was released.

    Every `window_period`-th layer sees everything, the others `window` positions. The model with
    `wide_layers` layers scales its scores by the width of a head as if heads made up the hidden
    size, of which GGUF says nothing.
    """

    has_post_norms: bool = True
    qk_norm: bool = False
    window: int | None = None
    window_period: int = 1
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    local_rope_theta: float | None = None
    wide_layers: int | None = None


_GENERATIONS = {
    "gemma": _Generation(has_post_norms=False),
    "gemma2": _Generation(
        window=4096, window_period=2, attention_soft_cap=50.0, logit_soft_cap=30.0, wide_layers=46
    ),
    "gemma3": _Generation(
        qk_norm=True, window=4096, window_period=6, local_rope_theta=10_000.0, wide_layers=62
    ),
}


def huggingface_gemma(config: Fields, architecture: Architecture) -> ModelConfig:
    """The shape from a `config.json`."""
    generation = _GENERATIONS[architecture.gguf_name]
    for key in _UNSUPPORTED_FLAGS:
        if config.flag(key, False):
            raise config.error(key, "is true, which is not supported")
    key = "hidden_activation"
    if key not in config and not generation.has_post_norms:
        key = "hidden_act"
    activation = config.text(key, _ACTIVATIONS[0])
    if activation not in _ACTIVATIONS:
        raise config.error(key, f"is {quote(activation)}; supported is {_ACTIVATIONS[0]}")
    num_layers = config.integer("num_hidden_layers", high=limits.MAX_LAYERS)
    num_heads = config.integer("num_attention_heads", high=limits.MAX_HEADS)
    head_dim = config.integer("head_dim", 256, high=limits.MAX_HEAD_DIM)
    windows: tuple[int | None, ...] = ()
    scale = soft_cap = logit_cap = None
    if generation.has_post_norms:
        scalar = config.number("query_pre_attn_scalar", 256.0, low=1e-6, high=_MAX_SCALAR)
        scale = scalar**-0.5
        soft_cap = _soft_cap(config, "attn_logit_softcapping", generation.attention_soft_cap)
        logit_cap = _soft_cap(config, "final_logit_softcapping", generation.logit_soft_cap)
        windows = _huggingface_windows(config, generation, num_layers)
    rope, local_theta = _ropes(config, generation)
    theta, _, scaling = huggingface_rope(rope, architecture, head_dim)
    return check_config(
        ModelConfig(
            architecture="gemma",
            vocab_size=config.integer("vocab_size", high=limits.MAX_VOCAB_SIZE),
            hidden_size=config.integer("hidden_size", high=limits.MAX_WIDTH),
            intermediate_size=config.integer("intermediate_size", high=limits.MAX_WIDTH),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=config.integer("num_key_value_heads", num_heads, high=limits.MAX_HEADS),
            head_dim=head_dim,
            max_model_len=config.integer("max_position_embeddings", high=limits.MAX_CONTEXT),
            norm_eps=config.number("rms_norm_eps", 1e-6, high=1.0),
            rope_theta=theta,
            rope_scaling=scaling,
            local_rope_theta=local_theta,
            windows=windows,
            qk_norm=generation.qk_norm,
            has_post_norms=generation.has_post_norms,
            attention_scale=scale,
            attention_soft_cap=soft_cap,
            logit_soft_cap=logit_cap,
            tie_word_embeddings=config.flag("tie_word_embeddings", True),
        ),
        config.source,
    )


def _soft_cap(config: Fields, key: str, default: float | None) -> float | None:
    """A key that is left out means the default; null means none."""
    if key not in config:
        return None if key in config.values else default
    return config.number(key, low=1e-6, high=_MAX_SCALAR)


def _huggingface_windows(
    config: Fields, generation: _Generation, num_layers: int
) -> tuple[int | None, ...]:
    if "sliding_window" in config.values and "sliding_window" not in config:
        return ()  # null
    window = config.integer("sliding_window", generation.window, high=limits.MAX_CONTEXT)
    types = config.values.get("layer_types")
    if types is None:
        period = config.integer("sliding_window_pattern", generation.window_period)
        return _windows(window, period, num_layers)
    if not isinstance(types, list) or len(types) != num_layers:
        raise config.error("layer_types", f"must be a list of {num_layers} names")
    for name in types:
        if name not in ("full_attention", "sliding_attention"):
            supported = "full_attention and sliding_attention"
            raise config.error("layer_types", f"names {quote(name)}; supported are {supported}")
    return tuple(window if name == "sliding_attention" else None for name in types)


def _windows(window: int, period: int, num_layers: int) -> tuple[int | None, ...]:
    return tuple(window if (layer + 1) % period else None for layer in range(num_layers))


def _ropes(config: Fields, generation: _Generation) -> tuple[Fields, float | None]:
    """The rotary parameters of layers without a window, where `huggingface_rope` looks for them;
    and the base of those with one, which are never scaled."""
    if generation.local_rope_theta is None:
        return config, None
    theta = config.number("rope_local_base_freq", generation.local_rope_theta, low=1.0)
    by_type = config.section("rope_parameters")
    if by_type is None or not ({"full_attention", "sliding_attention"} & by_type.values.keys()):
        return config, theta
    local = by_type.section("sliding_attention") or Fields(by_type.source, {})
    if local.text("rope_type", "default") != "default":
        raise local.error("rope_type", "is not default, which is not supported for windows")
    full = by_type.values.get("full_attention")
    flat = {**config.values, "rope_parameters": full, "rope_scaling": None}
    return Fields(config.source, flat), local.number("rope_theta", theta, low=1.0)


def gguf_gemma(
    metadata: Fields,
    architecture: Architecture,
    vocab_size: int,
    tensors: Mapping[str, TensorData],
) -> ModelConfig:
    """The shape from GGUF metadata. `tensors` go by their GGUF names."""
    prefix = architecture.gguf_name
    generation = _GENERATIONS[prefix]
    hidden_size = metadata.integer(f"{prefix}.embedding_length", high=limits.MAX_WIDTH)
    num_layers = metadata.integer(f"{prefix}.block_count", high=limits.MAX_LAYERS)
    num_heads = metadata.integer(f"{prefix}.attention.head_count", high=limits.MAX_HEADS)
    head_dim = metadata.integer(
        f"{prefix}.attention.key_length", hidden_size // num_heads, high=limits.MAX_HEAD_DIM
    )
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.integer(f"{prefix}.{key}", head_dim) != head_dim:
            raise metadata.error(f"{prefix}.{key}", f"must equal the head size {head_dim}")
    scale = None
    if num_layers == generation.wide_layers:
        scale = max(1, hidden_size // num_heads) ** -0.5
    theta = metadata.number(f"{prefix}.rope.freq_base", architecture.rope_theta, low=1.0)
    local_theta = generation.local_rope_theta
    if local_theta is not None:
        local_theta = metadata.number(f"{prefix}.rope.freq_base_swa", local_theta, low=1.0)

    def soft_cap(key: str, default: float | None) -> float | None:
        # 0 stands for none.
        return metadata.number(f"{prefix}.{key}", default or 0.0, high=_MAX_SCALAR) or None

    return check_config(
        ModelConfig(
            architecture="gemma",
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=metadata.integer(
                f"{prefix}.feed_forward_length", high=limits.MAX_WIDTH
            ),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=metadata.integer(
                f"{prefix}.attention.head_count_kv", num_heads, high=limits.MAX_HEADS
            ),
            head_dim=head_dim,
            max_model_len=metadata.integer(f"{prefix}.context_length", high=limits.MAX_CONTEXT),
            norm_eps=metadata.number(f"{prefix}.attention.layer_norm_rms_epsilon", high=1.0),
            rope_theta=theta,
            rope_scaling=gguf_rope_scaling(metadata, prefix, tensors, theta, head_dim),
            local_rope_theta=local_theta,
            windows=_gguf_windows(metadata, prefix, generation, num_layers),
            qk_norm=generation.qk_norm,
            has_post_norms=generation.has_post_norms,
            attention_scale=scale,
            attention_soft_cap=soft_cap("attn_logit_softcapping", generation.attention_soft_cap),
            logit_soft_cap=soft_cap("final_logit_softcapping", generation.logit_soft_cap),
            tie_word_embeddings="output.weight" not in tensors,
        ),
        metadata.source,
    )


def _gguf_windows(
    metadata: Fields, prefix: str, generation: _Generation, num_layers: int
) -> tuple[int | None, ...]:
    key = f"{prefix}.attention.sliding_window"
    # Gemma 2 has windows where the file is silent; Gemma 3 has them where the file gives one.
    default = generation.window if generation.local_rope_theta is None else None
    window = metadata.integer(key, default or 0, low=0, high=limits.MAX_CONTEXT)
    if not window:
        return ()
    pattern = metadata.values.get(f"{key}_pattern")
    if isinstance(pattern, np.ndarray):
        slides = pattern.tolist()
        if len(slides) != num_layers:
            raise metadata.error(f"{key}_pattern", f"must have {num_layers} entries")
        return tuple(window if slide else None for slide in slides)
    period = metadata.integer(f"{key}_pattern", generation.window_period)
    return _windows(window, period, num_layers)


def is_norm(name: str) -> bool:
    """Whether the weight of this name is stored without the 1 in a Hugging Face folder."""
    return name.endswith("norm.weight")


def plus_one(tensor: TensorData) -> TensorData:
    """What a norm multiplies by, in float32 (a copy)."""
    data = (dequantize(tensor) + np.float32(1)).reshape(-1).view(np.uint8)
    data.flags.writeable = False
    return TensorData("F32", tensor.shape, data)
