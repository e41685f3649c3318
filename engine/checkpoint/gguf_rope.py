"""The rotary scaling of a GGUF model: metadata, and divisors that are stored as tensors.

Knows the keys and the tensor names that llama.cpp's converter writes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from engine.checkpoint import architecture as limits
from engine.checkpoint.fields import Fields, quote
from engine.checkpoint.huggingface_rope import longrope_attention, yarn_attention
from engine.checkpoint.model_config import RopeScaling
from engine.checkpoint.quantization import dequantize
from engine.checkpoint.tensor_data import TensorData
from engine.errors import CheckpointError

_LLAMA3_DIVISORS = "rope_freqs.weight"
_SHORT_DIVISORS = "rope_factors_short.weight"
_LONG_DIVISORS = "rope_factors_long.weight"
# Tensors that become a part of the config.
ROPE_TENSORS = (_LLAMA3_DIVISORS, _SHORT_DIVISORS, _LONG_DIVISORS)
_MAX_FACTOR = 1e6


def gguf_rope_scaling(
    metadata: Fields,
    prefix: str,
    tensors: Mapping[str, TensorData],
    theta: float,
    rotary_dim: int,
) -> RopeScaling | None:
    """The scaling; CheckpointError where it is not supported. `tensors` by their GGUF names."""
    if _LLAMA3_DIVISORS in tensors:
        divisors = _divisors(metadata, tensors, _LLAMA3_DIVISORS, rotary_dim)
        return _llama3(divisors, theta, rotary_dim, metadata.source)
    if _SHORT_DIVISORS in tensors or _LONG_DIVISORS in tensors:
        return _longrope(metadata, prefix, tensors, rotary_dim)
    key = f"{prefix}.rope.scaling.type"
    kind = metadata.text(key, "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise metadata.error(key, f"is {quote(kind)}; supported are none, linear and yarn")
    factor = metadata.number(f"{prefix}.rope.scaling.factor", low=1.0, high=_MAX_FACTOR)
    return RopeScaling("linear", factor) if kind == "linear" else _yarn(metadata, prefix, factor)


def _yarn(metadata: Fields, prefix: str, factor: float) -> RopeScaling:
    for name in ("yarn_ext_factor", "attn_factor"):
        if metadata.number(f"{prefix}.rope.scaling.{name}", 1.0, low=-1.0) not in (1.0, -1.0):
            raise metadata.error(f"{prefix}.rope.scaling.{name}", "must be 1")
    return RopeScaling(
        "yarn",
        factor,
        original_max_position_embeddings=metadata.integer(
            f"{prefix}.rope.scaling.original_context_length", high=limits.MAX_CONTEXT
        ),
        beta_fast=metadata.number(f"{prefix}.rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=metadata.number(f"{prefix}.rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=metadata.number(
            f"{prefix}.rope.scaling.yarn_attn_factor", yarn_attention(factor), high=_MAX_FACTOR
        ),
    )


def _longrope(
    metadata: Fields, prefix: str, tensors: Mapping[str, TensorData], rotary_dim: int
) -> RopeScaling:
    length = metadata.integer(f"{prefix}.context_length", high=limits.MAX_CONTEXT)
    trained = metadata.integer(
        f"{prefix}.rope.scaling.original_context_length", low=2, high=limits.MAX_CONTEXT
    )
    factor = max(length / trained, 1.0)
    return RopeScaling(
        "longrope",
        factor,
        original_max_position_embeddings=trained,
        short_factors=tuple(_divisors(metadata, tensors, _SHORT_DIVISORS, rotary_dim).tolist()),
        long_factors=tuple(_divisors(metadata, tensors, _LONG_DIVISORS, rotary_dim).tolist()),
        attention_factor=metadata.number(
            f"{prefix}.rope.scaling.attn_factor",
            longrope_attention(factor, trained),
            high=_MAX_FACTOR,
        ),
    )


def _divisors(
    metadata: Fields, tensors: Mapping[str, TensorData], name: str, rotary_dim: int
) -> NDArray[np.float32]:
    tensor = tensors.get(name)
    if tensor is None or tensor.shape != (rotary_dim // 2,):
        raise CheckpointError(
            f"{metadata.source}: {name} must hold {rotary_dim // 2} divisors of frequencies"
        )
    divisors = dequantize(tensor)
    if not (np.isfinite(divisors).all() and (divisors > 0).all()):
        raise CheckpointError(f"{metadata.source}: {name} holds numbers that divide nothing")
    return divisors


def _llama3(
    divisors: NDArray[np.float32], theta: float, rotary_dim: int, source: str
) -> RopeScaling:
    """The Llama 3 scaling whose divisors the tensor lists, one for each pair of a head.

    The converter drops the parameters and keeps the divisors. All Llama 3 models share three of
    the four parameters (our defaults) and the largest divisor is the fourth, so they can be
    found again, and are believed only if they give the same divisors.
    """
    scaling = RopeScaling("llama3", factor=float(divisors.max()))
    pairs = np.arange(0, rotary_dim, 2) / rotary_dim
    wavelengths = 2 * np.pi * theta**pairs
    rotations = scaling.original_max_position_embeddings / wavelengths
    smooth = (rotations - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = np.clip(smooth, 0.0, 1.0)
    expected = 1 / ((1 - smooth) / scaling.factor + smooth)
    if not 1.0 <= scaling.factor <= _MAX_FACTOR or not np.allclose(divisors, expected, rtol=1e-4):
        raise CheckpointError(f"{source}: {_LLAMA3_DIVISORS} is not a Llama 3 rotary scaling")
    return scaling
