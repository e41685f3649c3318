"""The activations of the MLP, gated or not: in float32 and rounded once."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _sigmoid(x: tl.tensor) -> tl.tensor:
    decay = tl.exp(-tl.abs(x))  # at most 1: nothing overflows
    return tl.where(x >= 0, 1.0, decay) / (1.0 + decay)


@triton.jit
def _gelu_of(x: tl.tensor) -> tl.tensor:
    """(1 + tanh(u)) / 2 is sigmoid(2u), with u = sqrt(2 / pi) * (x + 0.044715 x^3)."""
    near = tl.minimum(tl.maximum(x, -30.0), 30.0)  # where nothing overflows; beyond it is 0 or x
    return x * _sigmoid(2.0 * 0.7978845608 * (near + 0.044715 * near * near * near))


@triton.jit
def _silu_mul(gate_up: tl.tensor, out: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """out [num_tokens, WIDTH] from gate_up [num_tokens, 2 * WIDTH], both contiguous."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    source = gate_up + token * (2 * WIDTH) + column
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + WIDTH, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * WIDTH + column, gate * _sigmoid(gate) * up, mask=inside)


@triton.jit
def _gelu_mul(gate_up: tl.tensor, out: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """As `_silu_mul`."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    source = gate_up + token * (2 * WIDTH) + column
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + WIDTH, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * WIDTH + column, _gelu_of(gate) * up, mask=inside)


@triton.jit
def _gelu(x: tl.tensor, out: tl.tensor, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """out and x [num_tokens, WIDTH], both contiguous."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    place = tl.program_id(0).to(tl.int64) * WIDTH + column
    numbers = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, _gelu_of(numbers), mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """See `Kernels.silu_mul`."""
    return _activate(_silu_mul, gate_up, gate_up.shape[1] // 2)


def gelu_mul(gate_up: Tensor) -> Tensor:
    """See `Kernels.gelu_mul`."""
    return _activate(_gelu_mul, gate_up, gate_up.shape[1] // 2)


def gelu(x: Tensor) -> Tensor:
    """See `Kernels.gelu`."""
    return _activate(_gelu, x, x.shape[1])


def _activate(kernel: Any, x: Tensor, width: int) -> Tensor:
    assert x.is_contiguous()
    num_tokens = x.shape[0]
    out = torch.empty((num_tokens, width), dtype=x.dtype, device=x.device)
    kernel[(num_tokens, triton.cdiv(width, _BLOCK))](x, out, WIDTH=width, BLOCK=_BLOCK, num_warps=4)
    return out
