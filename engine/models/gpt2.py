"""The decoder of GPT-2, of any size (Radford et al., 2019).

Positions are learned vectors, added to the tokens'. LayerNorm before attention and MLP, GELU
between the MLP's two products, biases everywhere. Knows no requests and no sampling.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.attention import AttentionPlan
from engine.checkpoint.model_config import ModelConfig
from engine.kernels.base import Embedding, Kernels
from engine.kv_cache import KVCache
from engine.models.layers import Projection, Vocabulary, WeightGroup


class GPT2:
    """Load every one of `weight_groups()` before the first `forward`."""

    positions: Embedding

    def __init__(self, config: ModelConfig, kernels: Kernels, device: torch.device) -> None:
        self.config = config
        self.kernels = kernels
        self.vocabulary = Vocabulary(config, kernels, "transformer.wte")
        self.layers = [DecoderLayer(config, kernels, i) for i in range(config.num_layers)]
        self.norm = LayerNorm(kernels, "transformer.ln_f", config)

    def forward(self, token_ids: Tensor, plan: AttentionPlan, kv_cache: KVCache) -> Tensor:
        """token_ids [num_tokens] -> hidden states after the last norm [num_tokens, hidden_size]"""
        x = self.vocabulary.embed(token_ids)
        # Padding of recorded steps is at position -1; what becomes of it nobody reads.
        residual = self.positions(plan.positions.clamp(min=0))
        for layer, kv in zip(self.layers, kv_cache.layers, strict=True):
            x, residual = layer(x, residual, kv, plan)
        return self.norm.add(x, residual)[0]

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size] -> float32 [num_rows, vocab_size]"""
        return self.vocabulary.compute_logits(hidden)

    def weight_groups(self) -> Iterator[WeightGroup]:
        """What to read from a checkpoint, by Hugging Face names, in the order of use."""
        yield from self.vocabulary.embedding_groups()
        shape = (self.config.num_positions, self.config.hidden_size)
        yield WeightGroup({"transformer.wpe.weight": shape}, self._load_positions)
        for layer in self.layers:
            yield from layer.weight_groups()
        yield from self.norm.weight_groups()
        yield from self.vocabulary.head_groups()

    def _load_positions(self, weight: Tensor) -> None:
        self.positions = self.kernels.pack_embedding(weight)


class LayerNorm:
    """A norm over hidden states, its weight and bias called `name` in a checkpoint."""

    weight: Tensor
    bias: Tensor

    def __init__(self, kernels: Kernels, name: str, config: ModelConfig) -> None:
        self.kernels = kernels
        self.name = name
        self.size = config.hidden_size
        self.eps = config.norm_eps

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (norm of x + residual, x + residual) and may overwrite both inputs."""
        return self.kernels.add_layer_norm(x, residual, self.weight, self.bias, self.eps)

    def weight_groups(self) -> Iterator[WeightGroup]:
        yield WeightGroup({f"{self.name}.weight": (self.size,)}, self._load_weight)
        yield WeightGroup({f"{self.name}.bias": (self.size,)}, self._load_bias)

    def _load_weight(self, weight: Tensor) -> None:
        self.weight = weight

    def _load_bias(self, bias: Tensor) -> None:
        self.bias = bias


class DecoderLayer:
    """Attention, then the MLP; each works on a norm of the residual stream and is added to it."""

    def __init__(self, config: ModelConfig, kernels: Kernels, index: int) -> None:
        name = f"transformer.h.{index}"
        hidden, inner = config.hidden_size, config.intermediate_size
        self.kernels = kernels
        self.head_dim = config.head_dim
        self.attention_norm = LayerNorm(kernels, f"{name}.ln_1", config)
        self.qkv = Projection(kernels, {f"{name}.attn.c_attn": 3 * hidden}, hidden, bias=True)
        self.output = Projection(kernels, {f"{name}.attn.c_proj": hidden}, hidden, bias=True)
        self.mlp_norm = LayerNorm(kernels, f"{name}.ln_2", config)
        self.up = Projection(kernels, {f"{name}.mlp.c_fc": inner}, hidden, bias=True)
        self.down = Projection(kernels, {f"{name}.mlp.c_proj": hidden}, inner, bias=True)

    def __call__(
        self, x: Tensor, residual: Tensor, kv: Tensor, plan: AttentionPlan
    ) -> tuple[Tensor, Tensor]:
        x, residual = self.attention_norm.add(x, residual)
        x = self._attend(x, kv, plan)
        x, residual = self.mlp_norm.add(x, residual)
        x = self.down(self.kernels.gelu(self.up(x)))
        return x, residual

    def _attend(self, x: Tensor, kv: Tensor, plan: AttentionPlan) -> Tensor:
        """Attention over the pages of the KV cache; queries, keys and values have equal heads."""
        num_tokens = x.shape[0]
        qkv = self.qkv(x).view(num_tokens, -1, self.head_dim)
        q = self.kernels.store_kv(qkv, kv, plan)
        return self.output(self.kernels.paged_attention(q, kv, plan).view(num_tokens, -1))

    def weight_groups(self) -> Iterator[WeightGroup]:
        yield from self.attention_norm.weight_groups()
        yield from self.qkv.weight_groups()
        yield from self.output.weight_groups()
        yield from self.mlp_norm.weight_groups()
        yield from self.up.weight_groups()
        yield from self.down.weight_groups()
