"""The decoder of Llama, Mistral, Phi-3, SmolLM2, SmolLM3, Qwen2 and Qwen3.

They differ in sizes, in what each layer sees and whether its heads turn, and in two structural
choices: biases on the QKV projection (`qkv_bias`, Qwen2) and a norm on each query and key head
(`qk_norm`, Qwen3). Knows no requests and no sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from engine.attention import AttentionPlan, AttentionRule
from engine.checkpoint.model_config import ModelConfig
from engine.kernels.base import FusedLayers, HeadNorms, Kernels, LayerParts
from engine.kv_cache import KVCache
from engine.models.layers import Projection, RMSNorm, Vocabulary, WeightGroup
from engine.models.rotary import Rotary


class Llama:
    """Load every one of `weight_groups()` before the first `forward`."""

    def __init__(self, config: ModelConfig, kernels: Kernels, device: torch.device) -> None:
        self.config = config
        self.kernels = kernels
        self.rotary = Rotary(config, device)
        self.vocabulary = Vocabulary(config, kernels)
        self.layers = [DecoderLayer(config, kernels, i) for i in range(config.num_layers)]
        self.norm = RMSNorm(kernels, "model.norm", config.hidden_size, config.norm_eps)

    def forward(self, token_ids: Tensor, plan: AttentionPlan, kv_cache: KVCache) -> Tensor:
        """token_ids [num_tokens] -> hidden states after the last norm [num_tokens, hidden_size]"""
        angles = self._angles(plan.positions)
        x = self.vocabulary.embed(token_ids)
        residual = torch.zeros_like(x)
        if self._fused is not None:
            x, residual = self._fused(x, residual, angles, kv_cache.layers, plan)
            return self.norm.add(x, residual)[0]
        for layer, cos_sin, kv in zip(self.layers, angles, kv_cache.layers, strict=True):
            x, residual = layer(x, residual, cos_sin, kv, plan)
        x, _ = self.norm.add(x, residual)
        return x

    def _angles(self, positions: Tensor) -> list[Tensor]:
        """What each layer's heads turn by, [num_tokens, 2, head_dim]."""
        turning = self.rotary(positions)
        if not self.config.still_layers:
            return [turning] * len(self.layers)
        still = self.rotary.still(positions)
        still_layers = self.config.still_layers
        return [still if i in still_layers else turning for i in range(len(self.layers))]

    @cached_property
    def _fused(self) -> FusedLayers | None:
        """Known once the weights are there."""
        return self.kernels.fuse([layer.parts() for layer in self.layers])

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
    """Attention, then the MLP; each works on a norm of the residual stream and is added to it."""

    def __init__(self, config: ModelConfig, kernels: Kernels, index: int) -> None:
        name = f"model.layers.{index}"
        hidden, eps = config.hidden_size, config.norm_eps
        self.kernels = kernels
        self.attention_norm = RMSNorm(kernels, f"{name}.input_layernorm", hidden, eps)
        self.attention = Attention(config, kernels, f"{name}.self_attn", config.window(index))
        self.mlp_norm = RMSNorm(kernels, f"{name}.post_attention_layernorm", hidden, eps)
        inner = config.intermediate_size
        gate_up = {f"{name}.mlp.gate_proj": inner, f"{name}.mlp.up_proj": inner}
        self.gate_up = Projection(kernels, gate_up, hidden)
        self.down = Projection(kernels, {f"{name}.mlp.down_proj": hidden}, inner)

    def __call__(
        self, x: Tensor, residual: Tensor, cos_sin: Tensor, kv: Tensor, plan: AttentionPlan
    ) -> tuple[Tensor, Tensor]:
        x, residual = self.attention_norm.add(x, residual)
        x = self.attention(x, cos_sin, kv, plan)
        x, residual = self.mlp_norm.add(x, residual)
        x = self.down(self.kernels.silu_mul(self.gate_up(x)))
        return x, residual

    def parts(self) -> LayerParts:
        """The weights, for kernels that run a whole layer. It must do what `__call__` does."""
        has_norms = self.attention.config.qk_norm
        return LayerParts(
            attention_norm=self.attention_norm.weight,
            qkv=self.attention.qkv.matrix,
            q_norm=self.attention.q_norm.weight if has_norms else None,
            k_norm=self.attention.k_norm.weight if has_norms else None,
            output=self.attention.output.matrix,
            mlp_norm=self.mlp_norm.weight,
            gate_up=self.gate_up.matrix,
            down=self.down.matrix,
            eps=self.mlp_norm.eps,
            rule=self.attention.rule,
            head_dim=self.attention.config.head_dim,
        )

    def weight_groups(self) -> Iterator[WeightGroup]:
        yield from self.attention_norm.weight_groups()
        yield from self.attention.weight_groups()
        yield from self.mlp_norm.weight_groups()
        yield from self.gate_up.weight_groups()
        yield from self.down.weight_groups()


class Attention:
    """Grouped-query attention over the pages of the KV cache."""

    def __init__(
        self,
        config: ModelConfig,
        kernels: Kernels,
        name: str,
        window: int | None,
        norm_dtype: torch.dtype | None = None,
    ) -> None:
        """`norm_dtype` is that of the norms' weights, see `RMSNorm`."""
        self.config = config
        self.kernels = kernels
        self.rule = AttentionRule(window, config.attention_soft_cap, config.attention_scale)
        q_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        qkv = {f"{name}.q_proj": q_size, f"{name}.k_proj": kv_size, f"{name}.v_proj": kv_size}
        self.qkv = Projection(kernels, qkv, config.hidden_size, bias=config.qkv_bias)
        self.output = Projection(kernels, {f"{name}.o_proj": config.hidden_size}, q_size)
        of_head = (config.head_dim, config.norm_eps, norm_dtype)
        self.q_norm = RMSNorm(kernels, f"{name}.q_norm", *of_head)
        self.k_norm = RMSNorm(kernels, f"{name}.k_norm", *of_head)

    def __call__(self, x: Tensor, cos_sin: Tensor, kv: Tensor, plan: AttentionPlan) -> Tensor:
        num_tokens, head_dim = x.shape[0], self.config.head_dim
        qkv = self.qkv(x).view(num_tokens, -1, head_dim)  # queries, then keys, then values
        q = self.kernels.rotary_store_kv(qkv, cos_sin, kv, plan, self._head_norms)
        attended = self.kernels.paged_attention(q, kv, plan, self.rule)
        return self.output(attended.view(num_tokens, -1))

    @cached_property
    def _head_norms(self) -> HeadNorms | None:
        """Known once the weights are there."""
        if not self.config.qk_norm:
            return None
        return HeadNorms(self.q_norm.weight, self.k_norm.weight, self.q_norm.eps)

    def weight_groups(self) -> Iterator[WeightGroup]:
        yield from self.qkv.weight_groups()
        if self.config.qk_norm:
            yield from self.q_norm.weight_groups()
            yield from self.k_norm.weight_groups()
        yield from self.output.weight_groups()
