"""How fast a step of decoding can be at best: the bytes that it must read, over the bandwidth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoint import ModelConfig, open_checkpoint, tensor_shapes

_ITEM_BYTES = 2  # bfloat16


@dataclass(frozen=True)
class ModelBytes:
    """`weights` is all of a model; `read` what a step reads of it: of an embedding that is no
    output layer too, only a few rows are needed. `per_token`: keys and values of one position."""

    weights: int
    read: int
    per_token: int

    @classmethod
    def of(cls, config: ModelConfig) -> ModelBytes:
        weights = _ITEM_BYTES * sum(math.prod(shape) for shape in tensor_shapes(config).values())
        table = _ITEM_BYTES * config.vocab_size * config.hidden_size
        return cls(
            weights=weights,
            read=weights if config.tie_word_embeddings else weights - table,
            per_token=2 * config.num_layers * config.num_kv_heads * config.head_dim * _ITEM_BYTES,
        )

    @classmethod
    def of_folder(cls, model: Path) -> ModelBytes:
        return cls.of(open_checkpoint(model, require_weights=False).config)

    def step_seconds(self, num_streams: int, context: float, bandwidth: float) -> float:
        """Of a step that brings each of `num_streams` its next token after `context` others."""
        return (self.read + num_streams * context * self.per_token) / bandwidth
