"""The two ends of a decoder: token ids become vectors, and vectors become logits.

Both are one table where the head is tied to the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from engine.checkpoint import GroupedWeight
from engine.checkpoint.model_config import ModelConfig
from engine.kernels.base import Embedding, Kernels
from engine.models.layers import Projection, WeightGroup

# Rounding the vocabulary to 4 bits costs more quality than all other matrices together.
_MIN_BITS = 8


class Vocabulary:
    """The embedding, called `name` in a checkpoint, and the head, called `lm_head` if it has a
    weight of its own."""

    embedding: Embedding

    def __init__(self, config: ModelConfig, kernels: Kernels, name: str) -> None:
        self.kernels = kernels
        self.name = name
        self.shape = (config.vocab_size, config.hidden_size)
        self.is_tied = config.tie_word_embeddings
        self.head = Projection(
            kernels, {"lm_head": config.vocab_size}, config.hidden_size, output_dtype=torch.float32
        )

    def __call__(self, token_ids: Tensor) -> Tensor:
        """[num_tokens] -> [num_tokens, hidden_size]"""
        return self.embedding(token_ids)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size] -> float32 [num_rows, vocab_size]"""
        return self.head(hidden)

    def weight_groups(self) -> Iterator[WeightGroup]:
        load_grouped = self._load if self.kernels.takes_grouped(self.shape[1]) else None
        yield WeightGroup({f"{self.name}.weight": self.shape}, self._load, load_grouped, _MIN_BITS)
        if not self.is_tied:
            for group in self.head.weight_groups():
                yield replace(group, min_bits=_MIN_BITS)

    def _load(self, weight: Tensor | GroupedWeight) -> None:
        self.embedding = self.kernels.pack_embedding(weight)
        if self.is_tied:
            self.head.load_weight(weight)
