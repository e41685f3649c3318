"""The reference kernels: plain torch, on any device, and the oracle for every other set.

On the CPU in float32 a position's result is the same bits whatever shares the step with it and
however its prompt was cut into chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import CAUSAL, AttentionPlan, AttentionRule, StepLayout
from engine.checkpoint.grouped import GroupedWeight
from engine.kernels import paged
from engine.kernels.base import Embedding, FusedLayers, HeadNorms, LayerParts, Linear
from engine.kernels.head_norms import norm_heads
from engine.kernels.linear import PackedLinear, Table


class ReferenceKernels:
    """See `Kernels` for the contract of each method."""

    def __init__(self, device: torch.device, dtype: torch.dtype, reason: str = "") -> None:
        """`reason` says why it is these kernels, for `describe`."""
        self.device = device
        self.dtype = dtype
        self.reason = reason

    def describe(self) -> str:
        return f"plain torch ({self.reason})" if self.reason else "plain torch"

    @property
    def can_be_recorded(self) -> bool:
        return False  # plans from the spans

    @property
    def reads_whole_pages(self) -> bool:
        return True

    def takes_grouped(self, num_inputs: int) -> bool:
        return False

    def pack_linear(
        self,
        weight: Tensor | GroupedWeight,
        bias: Tensor | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> Linear:
        assert isinstance(weight, Tensor), "see takes_grouped"
        return PackedLinear(weight, bias, output_dtype)

    def pack_embedding(self, weight: Tensor | GroupedWeight) -> Embedding:
        assert isinstance(weight, Tensor), "see takes_grouped"
        return Table(weight)

    def fuse(self, layers: Sequence[LayerParts]) -> FusedLayers | None:
        return None

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if weight.dtype != x.dtype:
            return F.rms_norm(x.float(), (x.shape[-1],), weight, eps).to(x.dtype)
        return F.rms_norm(x, (x.shape[-1],), weight, eps)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        residual = residual.add_(x)
        return self.rms_norm(residual, weight, eps), residual

    def add_layer_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        residual = residual.add_(x)
        return F.layer_norm(residual, (residual.shape[-1],), weight, bias, eps), residual

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        if self.dtype == torch.float32:
            # F.silu rounds otherwise at the end of a thread's share than inside of it.
            return torch.div(gate, torch.exp(-gate).add_(1)).mul_(up)
        return F.silu(gate).mul_(up)

    def gelu(self, x: Tensor) -> Tensor:
        if self.dtype == torch.float32:
            # (1 + tanh(u)) / 2 is 1 / (1 + exp(-2u)). F.gelu rounds as F.silu does, see above.
            cube = x * x * x
            doubled = cube.mul_(0.044715).add_(x).mul_(2 * math.sqrt(2 / math.pi))
            return torch.div(x, torch.exp(doubled.neg_()).add_(1))
        return F.gelu(x, approximate="tanh")

    def gelu_mul(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return self.gelu(gate).mul_(up)

    def plan(self, layout: StepLayout) -> AttentionPlan:
        return paged.make_plan(layout, self.dtype)

    def rotary_store_kv(
        self,
        qkv: Tensor,
        cos_sin: Tensor,
        kv: Tensor,
        plan: AttentionPlan,
        norms: HeadNorms | None = None,
    ) -> Tensor:
        num_kv_heads, head_dim = kv.shape[2], kv.shape[4]
        num_heads = qkv.shape[1] - 2 * num_kv_heads
        norm_heads(qkv, num_kv_heads, norms, self.rms_norm)
        rotated = qkv[:, : num_heads + num_kv_heads]
        x = rotated.float()  # in float32 this is `rotated` itself, changed in place
        swapped = x.roll(head_dim // 2, dims=-1)
        rotated.copy_(x.mul_(cos_sin[:, :1]).add_(swapped.mul_(cos_sin[:, 1:])))
        return self.store_kv(qkv, kv, plan)

    def store_kv(self, qkv: Tensor, kv: Tensor, plan: AttentionPlan) -> Tensor:
        assert isinstance(plan, paged.PagedPlan)
        num_kv_heads, head_dim = kv.shape[2], kv.shape[4]
        num_heads = qkv.shape[1] - 2 * num_kv_heads
        stored = qkv[:, num_heads:].reshape(-1, head_dim)
        kv.view(-1, head_dim).index_copy_(0, plan.store_rows, stored)
        return qkv[:, :num_heads]

    def paged_attention(
        self, q: Tensor, kv: Tensor, plan: AttentionPlan, rule: AttentionRule = CAUSAL
    ) -> Tensor:
        assert isinstance(plan, paged.PagedPlan)
        return paged.attend(q, kv, plan, rule)
