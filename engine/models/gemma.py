"""The decoder of Gemma, Gemma 2 and Gemma 3 (text).

Embeddings are scaled by the root of their width; the MLP is gated by GELU. The later ones norm what
attention and the MLP give, too (`has_post_norms`). Gemma 2 caps scores and logits; Gemma 3 norms
query and key heads, and turns them by a base of their own in layers with a window. Knows no
requests and no sampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from engine.attention import AttentionPlan
from engine.checkpoint.model_config import ModelConfig
from engine.kernels.base import Kernels
from engine.kv_cache import KVCache
from engine.models.layers import Projection, RMSNorm, Vocabulary, WeightGroup
from engine.models.llama import Attention
from engine.models.rotary import Rotary

# Their weights are sums of 1 and a number of the model's format, which has no place for most.
_NORM_DTYPE = torch.float32


class Gemma:
    """Load every one of `weight_groups()` before the first `forward`."""

    def __init__(self, config: ModelConfig, kernels: Kernels, device: torch.device) -> None:
        self.config = config
        self.rotary = Rotary(config, device)
        self.local_rotary = self.rotary
        if config.local_rope_theta is not None:
            local = replace(config, rope_theta=config.local_rope_theta, rope_scaling=None)
            self.local_rotary = Rotary(local, device)
        self.vocabulary = Vocabulary(config, kernels)
        self.layers = [DecoderLayer(config, kernels, i) for i in range(config.num_layers)]
        self.norm = RMSNorm(kernels, "model.norm", config.hidden_size, config.norm_eps, _NORM_DTYPE)

    def forward(self, token_ids: Tensor, plan: AttentionPlan, kv_cache: KVCache) -> Tensor:
        """token_ids [num_tokens] -> hidden states after the last norm [num_tokens, hidden_size]"""
        cos_sin = self.rotary(plan.positions)  # [num_tokens, 2, head_dim]
        local = cos_sin if self.local_rotary is self.rotary else self.local_rotary(plan.positions)
        x = self.vocabulary.embed(token_ids)
        # The models were trained with the factor as their number format has it.
        x = x.mul_(torch.tensor(math.sqrt(self.config.hidden_size), dtype=x.dtype).item())
        residual = torch.zeros_like(x)
        windows = self.config.windows or (None,) * len(self.layers)
        for layer, window, kv in zip(self.layers, windows, kv_cache.layers, strict=True):
            x, residual = layer(x, residual, cos_sin if window is None else local, kv, plan)
        return self.norm.add(x, residual)[0]

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size] -> float32 [num_rows, vocab_size]"""
        logits = self.vocabulary.compute_logits(hidden)
        cap = self.config.logit_soft_cap
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)

    def weight_groups(self) -> Iterator[WeightGroup]:
        """What to read from a checkpoint, by Hugging Face names, in the order of use."""
        yield from self.vocabulary.embedding_groups()
        for layer in self.layers:
            yield from layer.weight_groups()
        yield from self.norm.weight_groups()
        yield from self.vocabulary.head_groups()


class DecoderLayer:
    """Attention, then the MLP; each works on a norm of the residual stream, and what it gives is
    added to it, after another norm where there are `has_post_norms`."""

    def __init__(self, config: ModelConfig, kernels: Kernels, index: int) -> None:
        name = f"model.layers.{index}"
        hidden, inner = config.hidden_size, config.intermediate_size

        def norm(part: str) -> RMSNorm:
            of_stream = (hidden, config.norm_eps, _NORM_DTYPE)
            return RMSNorm(kernels, f"{name}.{part}_layernorm", *of_stream)

        self.kernels = kernels
        self.attention_norm = norm("input")
        self.attention = Attention(
            config, kernels, f"{name}.self_attn", config.window(index), _NORM_DTYPE
        )
        self.attention_post_norm = norm("post_attention") if config.has_post_norms else None
        self.mlp_norm = norm("pre_feedforward" if config.has_post_norms else "post_attention")
        gate_up = {f"{name}.mlp.gate_proj": inner, f"{name}.mlp.up_proj": inner}
        self.gate_up = Projection(kernels, gate_up, hidden)
        self.down = Projection(kernels, {f"{name}.mlp.down_proj": hidden}, inner)
        self.mlp_post_norm = norm("post_feedforward") if config.has_post_norms else None

    def __call__(
        self, x: Tensor, residual: Tensor, cos_sin: Tensor, kv: Tensor, plan: AttentionPlan
    ) -> tuple[Tensor, Tensor]:
        x, residual = self.attention_norm.add(x, residual)
        x = self.attention(x, cos_sin, kv, plan)
        if self.attention_post_norm is not None:
            x = self.attention_post_norm(x)
        x, residual = self.mlp_norm.add(x, residual)
        x = self.down(self.kernels.gelu_mul(self.gate_up(x)))
        if self.mlp_post_norm is not None:
            x = self.mlp_post_norm(x)
        return x, residual

    def weight_groups(self) -> Iterator[WeightGroup]:
        yield from self.attention_norm.weight_groups()
        yield from self.attention.weight_groups()
        if self.attention_post_norm is not None:
            yield from self.attention_post_norm.weight_groups()
        yield from self.mlp_norm.weight_groups()
        yield from self.gate_up.weight_groups()
        yield from self.down.weight_groups()
        if self.mlp_post_norm is not None:
            yield from self.mlp_post_norm.weight_groups()
