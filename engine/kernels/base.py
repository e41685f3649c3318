"""What a set of kernels offers to the models. The fast kernel's signature is the interface.

`reference.py` implements it in plain torch and is the oracle of every other set. All tensors lie on
the set's device. Knows nothing of requests or models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.attention import CAUSAL, AttentionPlan, AttentionRule, StepLayout
from engine.checkpoint.grouped import GroupedWeight

Linear = Callable[[Tensor], Tensor]
# Token ids [num_tokens] -> their rows of a table [num_tokens, width].
Embedding = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class LayerParts:
    """The weights of a decoder layer of Llama's structure, and its rule for heads of `head_dim`.
    The norms of heads may be missing."""

    attention_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    eps: float
    rule: AttentionRule
    head_dim: int


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """The norms of each query head and of each key head: their weights [head_dim]."""

    q: Tensor
    k: Tensor
    eps: float


class FusedLayers(Protocol):
    """All decoder layers of a step, one after the other."""

    def __call__(
        self,
        x: Tensor,
        residual: Tensor,
        cos_sin: Sequence[Tensor],
        kv: Sequence[Tensor],
        plan: AttentionPlan,
    ) -> tuple[Tensor, Tensor]:
        """x and residual as layers hand them on; both inputs may be overwritten. `cos_sin` and `kv`
        are those of each layer."""


class Kernels(Protocol):
    """The operations between the tensors of one step. `x` rows are tokens.

    `kv` is one layer of the KV pages: [num_blocks, 2, kv_heads, block_size, head_dim], keys at
    index 0 and values at index 1. How the numbers lie inside a page's keys and values is the set's
    own affair: others copy whole pages and fill them with zeros, no more.
    """

    def describe(self) -> str:
        """Which kernels these are and why, and what multiplies the weights packed so far."""

    @property
    def can_be_recorded(self) -> bool:
        """Whether a step in which every span has one token can be recorded (a CUDA graph) and
        replayed for other rows: `plan` then reads the layout's tensors on the device and nothing of
        `spans` but their number."""

    @property
    def reads_whole_pages(self) -> bool:
        """Whether positions of a page that no token sees are read too: then what lies there must be
        numbers, as zero times NaN is NaN."""

    def takes_grouped(self, num_inputs: int) -> bool:
        """Whether weights with rows of this many numbers may stay quantized."""

    def pack_linear(
        self,
        weight: Tensor | GroupedWeight,
        bias: Tensor | None,
        output_dtype: torch.dtype | None = None,
    ) -> Linear:
        """Take over `weight` [out, in] in this device's best form; the result is x W^T + b.

        `output_dtype` None is that of x. `weight` must not be written to afterwards. Its rows'
        results are the same bits whatever other rows x has, on the CPU.
        """

    def pack_embedding(self, weight: Tensor | GroupedWeight) -> Embedding:
        """Take over a table [num_rows, width]; it may be the one given to `pack_linear` too."""

    def fuse(self, layers: Sequence[LayerParts]) -> FusedLayers | None:
        """The layers as one operation with the same results, where there is a faster one."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / rms(x) * weight over the last dimension (Zhang and Sennrich, 2019).

        `weight` has x's number format or, where that would round it, float32.
        """

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """(rms_norm(x + residual), x + residual); both inputs may be overwritten."""

    def add_layer_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """(layer_norm(x + residual), x + residual); both inputs may be overwritten.

        The norm is (x - mean) / sqrt(variance + eps) * weight + bias (Ba et al., 2016).
        """

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up, from [num_tokens, 2 * width] to [num_tokens, width].

        The next call may overwrite the result.
        """

    def gelu(self, x: Tensor) -> Tensor:
        """x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2 of [num_tokens, width]: GELU by its
        approximation (Hendrycks and Gimpel, 2016). The next call may overwrite the result."""

    def gelu_mul(self, gate_up: Tensor) -> Tensor:
        """gelu(gate) * up, otherwise as `silu_mul`."""

    def plan(self, layout: StepLayout) -> AttentionPlan:
        """Prepare, once per step, what every layer's attention needs."""

    def rotary_store_kv(
        self,
        qkv: Tensor,
        cos_sin: Tensor,
        kv: Tensor,
        plan: AttentionPlan,
        norms: HeadNorms | None = None,
    ) -> Tensor:
        """Norm queries and keys if there are `norms` for them, rotate them, write keys and values
        to their pages; return the queries.

        `qkv` [num_tokens, heads + 2 * kv_heads, head_dim] may be overwritten. `cos_sin`
        [num_tokens, 2, head_dim] holds for each token (cos, cos) and (-sin, sin), so that the
        rotation is x * cos_sin[0] + swap_halves(x) * cos_sin[1].
        """

    def store_kv(self, qkv: Tensor, kv: Tensor, plan: AttentionPlan) -> Tensor:
        """`rotary_store_kv` where nothing is rotated: positions come in elsewhere, if at all."""

    def paged_attention(
        self, q: Tensor, kv: Tensor, plan: AttentionPlan, rule: AttentionRule = CAUSAL
    ) -> Tensor:
        """Causal attention of q [num_tokens, heads, head_dim] over its rows' pages; same shape.

        Every mix of prompt chunks and single tokens; query heads share KV heads in equal groups.
        Positions before every token's window are not read.
        The next call with this plan may overwrite the result.
        """
