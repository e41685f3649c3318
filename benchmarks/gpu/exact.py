"""Each operation of `Kernels` in float64, straight from its definition."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.attention import StepLayout
from engine.kernels.base import HeadNorms


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x, weight = x.double(), weight.double()
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def silu_mul(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.double().chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = x.double() @ weight.double().T
    return y if bias is None else y + bias.double()


def rotate(heads: Tensor, cos_sin: Tensor) -> Tensor:
    """heads [num_tokens, n, head_dim], cos_sin [num_tokens, 2, head_dim]"""
    heads, cos_sin = heads.double(), cos_sin.double()
    swapped = torch.cat(heads.chunk(2, dim=-1)[::-1], dim=-1)
    return heads * cos_sin[:, :1] + swapped * cos_sin[:, 1:]


def norm_heads(qkv: Tensor, num_kv_heads: int, norms: HeadNorms | None) -> Tensor:
    """Queries and keys of `qkv` [num_tokens, heads + 2 * kv_heads, head_dim], normed by head."""
    num_heads = qkv.shape[1] - 2 * num_kv_heads
    q, k = qkv[:, :num_heads].double(), qkv[:, num_heads : num_heads + num_kv_heads].double()
    if norms is not None:
        q, k = rms_norm(q, norms.q, norms.eps), rms_norm(k, norms.k, norms.eps)
    return torch.cat((q, k), dim=1)


def stored(layout: StepLayout, kv: Tensor) -> Tensor:
    """What lies at the step's own positions in pages `kv`: [num_tokens, 2, kv_heads, head_dim]"""
    blocks = layout.block_tables[layout.rows, layout.positions // layout.block_size].long()
    return kv[blocks, :, :, layout.positions % layout.block_size]


def attention(q: Tensor, kv: Tensor, layout: StepLayout) -> Tensor:
    """q [num_tokens, heads, head_dim] over the pages of one layer; float64, same shape."""
    output = torch.empty(q.shape, dtype=torch.float64, device=q.device)
    group = layout.num_heads // layout.num_kv_heads
    for span in layout.spans:
        num_pages = -(-span.context_len // layout.block_size)
        pages = kv[layout.block_tables[span.row, :num_pages].long()].double()
        # [pages, 2, kv_heads, block_size, head_dim] -> [2, heads, context_len, head_dim]
        keys, values = pages.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, : span.context_len]
        keys, values = (x.repeat_interleave(group, dim=0) for x in (keys, values))
        tokens = slice(span.first_token, span.first_token + span.num_tokens)
        queries = q[tokens].double().transpose(0, 1) * layout.head_dim**-0.5
        scores = queries @ keys.transpose(1, 2)
        seen = torch.arange(span.context_len, device=q.device)
        last = torch.arange(span.start, span.context_len, device=q.device)
        scores.masked_fill_(seen > last[:, None], float("-inf"))
        output[tokens] = (scores.softmax(-1) @ values).transpose(0, 1)
    return output
