"""The norms of query and key heads (RMSNorm, where a model has them), rotary embedding (Su et al.,
2021), and the way of keys and values to their pages: one pass over the projection's result.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from engine.attention import StepLayout
from engine.kernels.base import HeadNorms

# Heads that a program takes.
_BLOCK_HEADS = 16


@triton.jit(do_not_specialize_on_alignment=["rows", "positions"])
def _rotary_store_kv(
    qkv: tl.tensor,
    cos_sin: tl.tensor,
    kv: tl.tensor,
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    eps: tl.tensor,
    rows: tl.tensor,
    positions: tl.tensor,
    block_tables: tl.tensor,
    kv_stride: tl.tensor,
    table_stride: tl.tensor,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    HAS_NORMS: tl.constexpr,
) -> None:
    """A program for each token and BLOCK_HEADS of its heads: queries, then keys, then values.

    Queries are rotated in place. A token at a negative position is padding: it has no page. The
    weights of norms are read if HAS_NORMS only.
    """
    HALF: tl.constexpr = HEAD_DIM // 2
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    column = tl.arange(0, BLOCK_HALF)
    in_half = column < HALF
    inside = (head < NUM_HEADS + 2 * NUM_KV_HEADS)[:, None] & in_half[None, :]

    place = (token * (NUM_HEADS + 2 * NUM_KV_HEADS) + head)[:, None] * HEAD_DIM + column[None, :]
    first = tl.load(qkv + place, mask=inside, other=0.0)
    second = tl.load(qkv + place + HALF, mask=inside, other=0.0)
    angles = cos_sin + token * (2 * HEAD_DIM) + column  # (cos, cos, -sin, sin), each a half
    cos = tl.load(angles, mask=in_half, other=0.0)[None, :]
    sin = tl.load(angles + 3 * HALF, mask=in_half, other=0.0)[None, :]
    x, y = first.to(tl.float32), second.to(tl.float32)
    is_query = (head < NUM_HEADS)[:, None]
    if HAS_NORMS:
        scale = tl.rsqrt(tl.sum(x * x + y * y, 1) / HEAD_DIM + eps)[:, None]
        x *= scale * _weights(q_weight, k_weight, column, in_half, is_query)
        y *= scale * _weights(q_weight + HALF, k_weight + HALF, column, in_half, is_query)
    turns = (head < NUM_HEADS + NUM_KV_HEADS)[:, None]
    first = tl.where(turns, (x * cos - y * sin).to(first.dtype), first)
    second = tl.where(turns, (y * cos + x * sin).to(second.dtype), second)

    tl.store(qkv + place, first, mask=inside & is_query)
    tl.store(qkv + place + HALF, second, mask=inside & is_query)

    position = tl.load(positions + token)
    is_stored = inside & (head >= NUM_HEADS)[:, None] & (position >= 0)
    slot = tl.maximum(position, 0)
    row = tl.load(rows + token)
    block = tl.load(block_tables + row * table_stride + slot // BLOCK_SIZE).to(tl.int64)
    # In a page values follow keys as keys and values do in qkv: one number names a head of either.
    line = (head - NUM_HEADS) * BLOCK_SIZE + slot % BLOCK_SIZE
    page = kv + block * kv_stride + line[:, None] * HEAD_DIM + column[None, :]
    tl.store(page, first, mask=is_stored)
    tl.store(page + HALF, second, mask=is_stored)


@triton.jit
def _weights(
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    column: tl.tensor,
    inside: tl.tensor,
    is_query: tl.tensor,
) -> tl.tensor:
    """[heads, columns]: of a norm of queries, or of keys. Values are not normed and take any."""
    q = tl.load(q_weight + column, mask=inside, other=0.0).to(tl.float32)
    k = tl.load(k_weight + column, mask=inside, other=0.0).to(tl.float32)
    return tl.where(is_query, q[None, :], k[None, :])


def rotary_store_kv(
    qkv: Tensor, cos_sin: Tensor, kv: Tensor, layout: StepLayout, norms: HeadNorms | None = None
) -> Tensor:
    """See `Kernels.rotary_store_kv`."""
    assert qkv.is_contiguous() and cos_sin.is_contiguous() and kv[0].is_contiguous()
    num_tokens, num_all_heads, head_dim = qkv.shape
    num_heads = num_all_heads - 2 * layout.num_kv_heads
    _rotary_store_kv[(num_tokens, triton.cdiv(num_all_heads, _BLOCK_HEADS))](
        qkv,
        cos_sin,
        kv,
        qkv if norms is None else norms.q,
        qkv if norms is None else norms.k,
        0.0 if norms is None else norms.eps,
        layout.rows,
        layout.positions,
        layout.block_tables,
        kv.stride(0),
        layout.block_tables.stride(0),
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=layout.num_kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=layout.block_size,
        BLOCK_HEADS=_BLOCK_HEADS,
        BLOCK_HALF=triton.next_power_of_2(head_dim // 2),
        HAS_NORMS=norms is not None,
        num_warps=4,
    )
    return qkv[:, :num_heads]
