"""One step's attention on random numbers, to be run by any set of kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from ragged_layout import ragged_layout
from torch import Tensor

from engine.attention import CAUSAL, AttentionRule, StepLayout
from engine.kernels.base import Kernels
from engine.kernels.cpu import CpuKernels


@dataclass(frozen=True)
class Step:
    """Random rows of `spans` (start, num_tokens). Whatever no token may see is NaN."""

    layout: StepLayout
    qkv: Tensor
    cos_sin: Tensor
    kv: Tensor

    def run(self, kernels: Kernels, rule: AttentionRule = CAUSAL) -> tuple[Tensor, Tensor]:
        """Attention of the step's tokens, and the pages afterwards."""
        plan = kernels.plan(self.layout)
        kv = lay_out(self.kv, kernels)
        q = kernels.rotary_store_kv(self.qkv.clone(), self.cos_sin, kv, plan)
        attended = kernels.paged_attention(q, kv, plan, rule).clone()
        return attended, lay_back(kv, kernels)

    def without_unread(self, window: int, at_once: int) -> Step:
        """NaN too where no token's window reaches, but for the rest of `at_once` positions."""
        kv = self.kv.clone()
        for span in self.layout.spans:
            table = self.layout.block_tables[span.row]
            for position in range(max(0, span.start + 1 - window) // at_once * at_once):
                block = table[position // self.layout.block_size]
                kv[block, :, :, position % self.layout.block_size] = torch.nan
        return replace(self, kv=kv)

    def clean(self) -> Step:
        """In float32 and with zeros for NaN: for an oracle that reads whole pages."""
        return replace(self, qkv=self.qkv.float(), kv=self.kv.float().nan_to_num(nan=0.0))

    def to(self, device: torch.device) -> Step:
        layout = replace(
            self.layout,
            rows=self.layout.rows.to(device),
            positions=self.layout.positions.to(device),
            block_tables=self.layout.block_tables.to(device),
        )
        return Step(layout, self.qkv.to(device), self.cos_sin.to(device), self.kv.to(device))


def lay_out(kv: Tensor, kernels: Kernels) -> Tensor:
    """A copy of [.., block_size, head_dim] as these kernels read it."""
    return as_words(kv) if isinstance(kernels, CpuKernels) else kv.clone()


def lay_back(kv: Tensor, kernels: Kernels) -> Tensor:
    """The inverse of `lay_out`."""
    return as_positions(kv) if isinstance(kernels, CpuKernels) else kv


def as_words(kv: Tensor) -> Tensor:
    """Pages as the C++ kernels lay them out (step.h), from [.., block_size, head_dim]."""
    keys, values = kv.unbind(1)
    num_blocks, num_heads, block_size, head_dim = keys.shape
    pair = 4 // kv.itemsize
    keys = keys.view(num_blocks, num_heads, block_size, -1, pair).transpose(2, 3)
    values = values.view(num_blocks, num_heads, -1, pair, head_dim).transpose(3, 4)
    return torch.stack((keys.reshape(kv[:, 0].shape), values.reshape(kv[:, 1].shape)), 1)


def as_positions(kv: Tensor) -> Tensor:
    """The inverse of `as_words`."""
    keys, values = kv.unbind(1)
    num_blocks, num_heads, block_size, head_dim = keys.shape
    pair = 4 // kv.itemsize
    keys = keys.view(num_blocks, num_heads, -1, block_size, pair).transpose(2, 3)
    values = values.view(num_blocks, num_heads, -1, head_dim, pair).transpose(3, 4)
    return torch.stack((keys.reshape(kv[:, 0].shape), values.reshape(kv[:, 1].shape)), 1)


def make_step(
    spans: list[tuple[int, int]],
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    block_size: int = 16,
) -> Step:
    """`shape` is (query heads, KV heads, head size)."""
    num_heads, num_kv_heads, head_dim = shape
    layout, num_blocks = ragged_layout(spans, num_heads, num_kv_heads, head_dim, block_size)
    kv = torch.full((num_blocks + 1, 2, num_kv_heads, block_size, head_dim), torch.nan, dtype=dtype)
    for span in layout.spans:
        for position in range(span.start):
            block = layout.block_tables[span.row, position // block_size]
            seen = torch.randn(2, num_kv_heads, head_dim)
            kv[block, :, :, position % block_size] = seen.to(dtype)
    num_tokens = len(layout.rows)
    qkv = torch.randn(num_tokens, num_heads + 2 * num_kv_heads, head_dim).to(dtype)
    angles = torch.randn(num_tokens, head_dim // 2)
    cos, sin = angles.cos(), angles.sin()
    cos_sin = torch.cat((cos, cos, -sin, sin), -1).view(num_tokens, 2, head_dim)
    return Step(layout, qkv, cos_sin, kv)
