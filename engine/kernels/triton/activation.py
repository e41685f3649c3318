"""The gated activation of the MLP: silu(gate) * up, in float32 and rounded once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _silu_mul(gate_up: tl.tensor, out: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """out [num_tokens, WIDTH] from gate_up [num_tokens, 2 * WIDTH], both contiguous."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    source = gate_up + token * (2 * WIDTH) + column
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + WIDTH, mask=inside, other=0.0).to(tl.float32)
    decay = tl.exp(-tl.abs(gate))  # at most 1: nothing overflows
    sigmoid = tl.where(gate >= 0, 1.0, decay) / (1.0 + decay)
    tl.store(out + token * WIDTH + column, gate * sigmoid * up, mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """See `Kernels.silu_mul`."""
    assert gate_up.is_contiguous()
    num_tokens, double_width = gate_up.shape
    width = double_width // 2
    out = torch.empty((num_tokens, width), dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul[(num_tokens, triton.cdiv(width, _BLOCK))](
        gate_up, out, WIDTH=width, BLOCK=_BLOCK, num_warps=4
    )
    return out
