"""RMSNorm (Zhang and Sennrich, 2019), alone and joined with the addition before it.

Sums are in float32. A program holds whole rows, so a row's result does not depend on the others.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Numbers that a program holds at once: narrow rows, such as heads, are taken several at a time.
_BLOCK_NUMBERS = 2048
# Numbers to a warp: 16 for each of its threads.
_WARP_NUMBERS = 512


@triton.jit(do_not_specialize=["num_rows"])
def _rms_norm(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    token_stride: tl.tensor,
    head_stride: tl.tensor,
    eps: tl.tensor,
    NUM_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> None:
    """out [num_tokens, NUM_HEADS, WIDTH], contiguous, from x of that shape and any strides."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_WIDTH)
    inside = (row < num_rows)[:, None] & (column < WIDTH)[None, :]
    source = row // NUM_HEADS * token_stride + row % NUM_HEADS * head_stride
    values = tl.load(x + source[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 1) / WIDTH + eps)
    weights = tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    normed = values * scale[:, None] * weights[None, :]
    tl.store(out + row[:, None] * WIDTH + column[None, :], normed, mask=inside)


@triton.jit
def _add_rms_norm(
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> None:
    """Both [num_tokens, WIDTH], contiguous: residual += x, then x = its norm."""
    column = tl.arange(0, BLOCK_WIDTH)
    inside = column < WIDTH
    place = tl.program_id(0).to(tl.int64) * WIDTH + column
    added = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    added += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    # What later layers will read is what is normalised: the sum as rounded.
    rounded = added.to(residual.dtype.element_ty)
    tl.store(residual + place, rounded, mask=inside)
    values = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / WIDTH + eps)
    weights = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + place, values * scale * weights, mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `Kernels.rms_norm`. x [num_tokens, width] or [num_tokens, heads, width], of any strides
    but the last."""
    width = weight.shape[0]
    heads = x if x.dim() == 3 else x.unsqueeze(1)
    assert heads.shape[2] == width and heads.stride(2) == 1
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    num_rows = heads.shape[0] * heads.shape[1]
    block_width = triton.next_power_of_2(width)
    block_rows = max(1, _BLOCK_NUMBERS // block_width)
    _rms_norm[(triton.cdiv(num_rows, block_rows),)](
        heads,
        weight,
        out,
        num_rows,
        heads.stride(0),
        heads.stride(1),
        eps,
        NUM_HEADS=heads.shape[1],
        WIDTH=width,
        BLOCK_ROWS=block_rows,
        BLOCK_WIDTH=block_width,
        num_warps=_num_warps(block_rows * block_width),
    )
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `Kernels.add_rms_norm`. Overwrites both inputs with the results."""
    assert x.is_contiguous() and residual.is_contiguous()
    num_tokens, width = x.shape
    block_width = triton.next_power_of_2(width)
    _add_rms_norm[(num_tokens,)](
        x,
        residual,
        weight,
        eps,
        WIDTH=width,
        BLOCK_WIDTH=block_width,
        num_warps=_num_warps(block_width),
    )
    return x, residual


def _num_warps(num_numbers: int) -> int:
    return int(min(16, max(1, num_numbers // _WARP_NUMBERS)))
