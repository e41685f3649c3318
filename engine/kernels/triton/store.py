"""The way of keys and values to their pages, where no rotary embedding goes with it."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from engine.attention import StepLayout

# Heads that a program takes.
_BLOCK_HEADS = 16


@triton.jit(do_not_specialize_on_alignment=["rows", "positions"])
def _store_kv(
    qkv: tl.tensor,
    kv: tl.tensor,
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
    BLOCK_DIM: tl.constexpr,
) -> None:
    """A program for each token and BLOCK_HEADS of its keys, then values.

    A token at a negative position is padding: it has no page.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    column = tl.arange(0, BLOCK_DIM)
    position = tl.load(positions + token)
    is_stored = (head < 2 * NUM_KV_HEADS)[:, None] & (column < HEAD_DIM)[None, :] & (position >= 0)
    place = (token * (NUM_HEADS + 2 * NUM_KV_HEADS) + NUM_HEADS + head)[:, None] * HEAD_DIM
    numbers = tl.load(qkv + place + column[None, :], mask=is_stored, other=0.0)

    slot = tl.maximum(position, 0)
    row = tl.load(rows + token)
    block = tl.load(block_tables + row * table_stride + slot // BLOCK_SIZE).to(tl.int64)
    # In a page values follow keys as keys and values do in qkv: one number names a head of either.
    line = head * BLOCK_SIZE + slot % BLOCK_SIZE
    page = kv + block * kv_stride + line[:, None] * HEAD_DIM + column[None, :]
    tl.store(page, numbers, mask=is_stored)


def store_kv(qkv: Tensor, kv: Tensor, layout: StepLayout) -> Tensor:
    """See `Kernels.store_kv`."""
    assert qkv.is_contiguous() and kv[0].is_contiguous()
    num_tokens, num_all_heads, head_dim = qkv.shape
    num_kv_heads = layout.num_kv_heads
    num_heads = num_all_heads - 2 * num_kv_heads
    _store_kv[(num_tokens, triton.cdiv(2 * num_kv_heads, _BLOCK_HEADS))](
        qkv,
        kv,
        layout.rows,
        layout.positions,
        layout.block_tables,
        kv.stride(0),
        layout.block_tables.stride(0),
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=layout.block_size,
        BLOCK_HEADS=_BLOCK_HEADS,
        BLOCK_DIM=triton.next_power_of_2(head_dim),
        num_warps=4,
    )
    return qkv[:, :num_heads]
