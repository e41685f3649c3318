"""The decoder of OLMo 2: attention and MLP read the residual stream as it is, and what they give
is normed before it is added. Queries and keys are normed too, over all heads of a token at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.attention import AttentionPlan, AttentionRule
from engine.checkpoint.model_config import ModelConfig
from engine.kernels.base import Kernels
from engine.kv_cache import KVCache
from engine.models.layers import Projection, RMSNorm, Vocabulary, WeightGroup
from engine.models.rotary import Rotary


class Olmo2:
    """Load every one of `weight_groups()` before the first `forward`."""

    def __init__(self, config: ModelConfig, kernels: Kernels, device: torch.device) -> None:
        self.rotary = Rotary(config, device)
        self.vocabulary = Vocabulary(config, kernels)
        self.layers = [DecoderLayer(config, kernels, i) for i in range(config.num_layers)]
        self.norm = RMSNorm(kernels, "model.norm", config.hidden_size, config.norm_eps)

    def forward(self, token_ids: Tensor, plan: AttentionPlan, kv_cache: KVCache) -> Tensor:
        """token_ids [num_tokens] -> hidden states after the last norm [num_tokens, hidden_size]"""
        cos_sin = self.rotary(plan.positions)  # [num_tokens, 2, head_dim]
        x = self.vocabulary.embed(token_ids)
        for layer, kv in zip(self.layers, kv_cache.layers, strict=True):
            x = layer(x, cos_sin, kv, plan)
        return self.norm(x)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size] -> float32 [num_rows, vocab_size]"""
        return self.vocabulary.compute_logits(hidden)

    def weight_groups(self) -> Iterator[WeightGroup]:
        """What to read from a checkpoint, by Hugging Face names, in the order of use."""
        yield from self.vocabulary.embedding_groups()
        for layer in self.layers:
            yield from layer.weight_groups()
        yield from self.norm.weight_groups()
        yield from self.vocabulary.head_groups()


class DecoderLayer:
    """Attention, then the MLP; each one's result is normed and added to the residual stream."""

    def __init__(self, config: ModelConfig, kernels: Kernels, index: int) -> None:
        name = f"model.layers.{index}"
        hidden, inner, eps = config.hidden_size, config.intermediate_size, config.norm_eps
        self.kernels = kernels
        self.attention = Attention(config, kernels, f"{name}.self_attn", config.window(index))
        self.attention_norm = RMSNorm(kernels, f"{name}.post_attention_layernorm", hidden, eps)
        gate_up = {f"{name}.mlp.gate_proj": inner, f"{name}.mlp.up_proj": inner}
        self.gate_up = Projection(kernels, gate_up, hidden)
        self.down = Projection(kernels, {f"{name}.mlp.down_proj": hidden}, inner)
        self.mlp_norm = RMSNorm(kernels, f"{name}.post_feedforward_layernorm", hidden, eps)

    def __call__(self, x: Tensor, cos_sin: Tensor, kv: Tensor, plan: AttentionPlan) -> Tensor:
        x = x + self.attention_norm(self.attention(x, cos_sin, kv, plan))
        inner = self.kernels.silu_mul(self.gate_up(x))
        return x + self.mlp_norm(self.down(inner))

    def weight_groups(self) -> Iterator[WeightGroup]:
        yield from self.attention.weight_groups()
        yield from self.attention_norm.weight_groups()
        yield from self.gate_up.weight_groups()
        yield from self.down.weight_groups()
        yield from self.mlp_norm.weight_groups()


class Attention:
    """Grouped-query attention over the pages of the KV cache."""

    def __init__(
        self, config: ModelConfig, kernels: Kernels, name: str, window: int | None
    ) -> None:
        self.head_dim = config.head_dim
        self.kernels = kernels
        self.rule = AttentionRule(window)
        self.q_size = config.num_heads * config.head_dim
        self.kv_size = config.num_kv_heads * config.head_dim
        sizes = {"q": self.q_size, "k": self.kv_size, "v": self.kv_size}
        qkv = {f"{name}.{part}_proj": size for part, size in sizes.items()}
        self.qkv = Projection(kernels, qkv, config.hidden_size)
        self.output = Projection(kernels, {f"{name}.o_proj": config.hidden_size}, self.q_size)
        self.q_norm = RMSNorm(kernels, f"{name}.q_norm", self.q_size, config.norm_eps)
        self.k_norm = RMSNorm(kernels, f"{name}.k_norm", self.kv_size, config.norm_eps)

    def __call__(self, x: Tensor, cos_sin: Tensor, kv: Tensor, plan: AttentionPlan) -> Tensor:
        num_tokens = x.shape[0]
        qkv = self.qkv(x)  # queries, then keys, then values
        q, k = qkv[:, : self.q_size], qkv[:, self.q_size : self.q_size + self.kv_size]
        q.copy_(self.q_norm(q))
        k.copy_(self.k_norm(k))
        heads = qkv.view(num_tokens, -1, self.head_dim)
        queries = self.kernels.rotary_store_kv(heads, cos_sin, kv, plan)
        attended = self.kernels.paged_attention(queries, kv, plan, self.rule)
        return self.output(attended.view(num_tokens, -1))

    def weight_groups(self) -> Iterator[WeightGroup]:
        yield from self.qkv.weight_groups()
        yield from self.q_norm.weight_groups()
        yield from self.k_norm.weight_groups()
        yield from self.output.weight_groups()
