"""The rotary parameters of a Hugging Face `config.json`.

They are in `rope_parameters` since transformers 5 and in `rope_scaling` before, with `rope_theta`
and a few others beside it.
"""

from __future__ import annotations

import math

from engine.checkpoint import architecture as limits
from engine.checkpoint.architecture import Architecture
from engine.checkpoint.fields import Fields, quote
from engine.checkpoint.model_config import RopeScaling

_MAX_FACTOR = 1e6
_SUPPORTED = "default, linear, llama3, yarn and longrope"


def huggingface_rope(
    config: Fields, architecture: Architecture, head_dim: int
) -> tuple[float, int | None, RopeScaling | None]:
    """Base, rotary dimension (None for whole heads) and scaling; CheckpointError where one of them
    is not supported."""
    rope = _section(config)
    for layer_type in ("full_attention", "sliding_attention"):
        if layer_type in rope:
            raise rope.error(layer_type, "is set; one rotary embedding for all layers is supported")
    theta = config.number("rope_theta", architecture.rope_theta, low=1.0)
    theta = rope.number("rope_theta", theta, low=1.0)
    rotary_dim = _rotary_dim(config, rope, architecture, head_dim)
    return theta, rotary_dim, _scaling(config, rope, architecture, rotary_dim or head_dim)


def _section(config: Fields) -> Fields:
    for key in ("rope_scaling", "rope_parameters"):
        section = config.section(key)
        if section is not None and section.values:
            return section
    return Fields(config.source, {})


def _rotary_dim(
    config: Fields, rope: Fields, architecture: Architecture, head_dim: int
) -> int | None:
    part = config.number("partial_rotary_factor", 1.0, high=1.0)
    part = rope.number("partial_rotary_factor", part, high=1.0)
    if part == 1.0:
        return None
    fields = rope if "partial_rotary_factor" in rope else config
    if not architecture.is_fused:
        raise fields.error("partial_rotary_factor", "must be 1")
    rotary_dim = int(head_dim * part)
    if rotary_dim < 2 or rotary_dim % 2:
        raise fields.error(
            "partial_rotary_factor", f"turns {rotary_dim} of {head_dim} numbers, must be even"
        )
    return rotary_dim


def _scaling(
    config: Fields, rope: Fields, architecture: Architecture, rotary_dim: int
) -> RopeScaling | None:
    key = "rope_type" if "rope_type" in rope else "type"
    kind = rope.text(key, "default")
    if architecture.is_fused and kind in ("su", "yarn"):
        kind = "longrope"  # what Phi-3 called it at first
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", rope.number("factor", low=1.0, high=_MAX_FACTOR))
    if kind == "llama3":
        return _llama3(rope)
    if kind == "yarn":
        return _yarn(config, rope)
    if kind == "longrope":
        return _longrope(config, rope, architecture, rotary_dim)
    raise rope.error(key, f"is {quote(kind)}; supported are {_SUPPORTED}")


def _llama3(rope: Fields) -> RopeScaling:
    scaling = RopeScaling(
        "llama3",
        rope.number("factor", low=1.0, high=_MAX_FACTOR),
        rope.number("low_freq_factor"),
        rope.number("high_freq_factor"),
        rope.integer("original_max_position_embeddings", high=limits.MAX_CONTEXT),
    )
    if not scaling.low_freq_factor < scaling.high_freq_factor:
        raise rope.error("high_freq_factor", "must be larger than low_freq_factor")
    return scaling


def _yarn(config: Fields, rope: Fields) -> RopeScaling:
    trained = rope.integer(
        "original_max_position_embeddings",
        config.integer("max_position_embeddings", high=limits.MAX_CONTEXT),
        high=limits.MAX_CONTEXT,
    )
    factor = rope.number("factor", low=1.0, high=_MAX_FACTOR)
    # 0 stands for "not given", as in transformers.
    mscale, mscale_all_dim = rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    if mscale and mscale_all_dim:
        attention_factor = yarn_attention(factor, mscale) / yarn_attention(factor, mscale_all_dim)
    else:
        attention_factor = yarn_attention(factor)
    scaling = RopeScaling(
        "yarn",
        factor,
        original_max_position_embeddings=trained,
        beta_fast=rope.number("beta_fast", 0.0) or 32.0,
        beta_slow=rope.number("beta_slow", 0.0) or 1.0,
        truncate=rope.flag("truncate", True),
        attention_factor=rope.number("attention_factor", attention_factor, high=_MAX_FACTOR),
    )
    if scaling.beta_fast < scaling.beta_slow:
        raise rope.error("beta_fast", "must not be smaller than beta_slow")
    return scaling


def yarn_attention(factor: float, scale: float = 1.0) -> float:
    """How much longer YaRN makes queries and keys: its authors' rule, for a `factor` >= 1."""
    return 0.1 * scale * math.log(factor) + 1.0


def _longrope(
    config: Fields, rope: Fields, architecture: Architecture, rotary_dim: int
) -> RopeScaling:
    length = config.integer("max_position_embeddings", high=limits.MAX_CONTEXT)
    key = "original_max_position_embeddings"
    # Phi-3 has it beside the section, which then counts.
    default = 4096 if architecture.is_fused else length
    fields = config if architecture.is_fused and (key in config or key not in rope) else rope
    trained = fields.integer(key, default, low=2, high=limits.MAX_CONTEXT)
    factor = rope.number("factor", max(length / trained, 1.0), low=1.0, high=_MAX_FACTOR)
    return RopeScaling(
        "longrope",
        factor,
        original_max_position_embeddings=trained,
        short_factors=_factors(rope, "short_factor", rotary_dim // 2),
        long_factors=_factors(rope, "long_factor", rotary_dim // 2),
        attention_factor=rope.number(
            "attention_factor", longrope_attention(factor, trained), high=_MAX_FACTOR
        ),
    )


def longrope_attention(factor: float, trained_len: int) -> float:
    """How much longer LongRoPE makes queries and keys, for a `factor` >= 1."""
    return math.sqrt(1 + math.log(factor) / math.log(trained_len))


def _factors(rope: Fields, key: str, count: int) -> tuple[float, ...]:
    values = rope.values.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise rope.error(key, f"must be a list of {count} numbers, one for each pair that turns")
    items = Fields(f"{rope.source}: {key}", {f"item {i}": item for i, item in enumerate(values)})
    return tuple(items.number(name, low=1e-6, high=_MAX_FACTOR) for name in items.values)
