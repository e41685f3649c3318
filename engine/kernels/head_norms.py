"""The norms of query and key heads for sets that have no kernel of their own for them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from engine.kernels.base import HeadNorms


def norm_heads(
    qkv: Tensor,
    num_kv_heads: int,
    norms: HeadNorms | None,
    rms_norm: Callable[[Tensor, Tensor, float], Tensor],
) -> None:
    """Norm the heads of `qkv` [num_tokens, heads + 2 * kv_heads, head_dim] where they are."""
    if norms is None:
        return
    num_heads = qkv.shape[1] - 2 * num_kv_heads
    for heads, weight in (
        (qkv[:, :num_heads], norms.q),
        (qkv[:, num_heads : num_heads + num_kv_heads], norms.k),
    ):
        heads.copy_(rms_norm(heads, weight, norms.eps))
