"""LayerNorm (Ba et al., 2016), joined with the addition before it.

Sums are in float32. A program holds a whole row, so its result does not depend on the others.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

# Numbers to a warp: 16 for each of its threads.
_WARP_NUMBERS = 512


@triton.jit
def _add_layer_norm(
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
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
    centred = tl.where(inside, values - tl.sum(values, 0) / WIDTH, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / WIDTH + eps)
    weights = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    biases = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + place, centred * scale * weights + biases, mask=inside)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See `Kernels.add_layer_norm`. Overwrites both inputs with the results."""
    assert x.is_contiguous() and residual.is_contiguous()
    num_tokens, width = x.shape
    block_width = triton.next_power_of_2(width)
    _add_layer_norm[(num_tokens,)](
        x,
        residual,
        weight,
        bias,
        eps,
        WIDTH=width,
        BLOCK_WIDTH=block_width,
        num_warps=min(16, max(1, block_width // _WARP_NUMBERS)),
    )
    return x, residual
