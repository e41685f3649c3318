"""The model files by `ModelConfig.architecture`, imported when chosen, and their common face.

A model takes the tokens of a step and gives hidden states; only the rows that need logits pay for
the vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from engine.attention import AttentionPlan
from engine.checkpoint.model_config import ModelConfig
from engine.errors import CheckpointError
from engine.kernels.base import Kernels
from engine.kv_cache import KVCache
from engine.models.layers import WeightGroup

_MODELS = {
    "llama": "engine.models.llama:Llama",
    "olmo2": "engine.models.olmo2:Olmo2",
    "gpt2": "engine.models.gpt2:GPT2",
    "gemma": "engine.models.gemma:Gemma",
}


class Model(Protocol):
    """A decoder whose weights are on one device."""

    def forward(self, token_ids: Tensor, plan: AttentionPlan, kv_cache: KVCache) -> Tensor:
        """token_ids [num_tokens] -> hidden states [num_tokens, hidden_size]"""

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size] -> float32 [num_rows, vocab_size]"""

    def weight_groups(self) -> Iterator[WeightGroup]:
        """What to load before the first `forward`."""


def build_model(config: ModelConfig, kernels: Kernels, device: torch.device) -> Model:
    """A model without weights. Raises CheckpointError for an architecture that has no file."""
    if config.architecture not in _MODELS:
        known = ", ".join(sorted(_MODELS))
        raise CheckpointError(f"no model file for architecture {config.architecture!r} ({known})")
    module, _, name = _MODELS[config.architecture].partition(":")
    model: Model = getattr(importlib.import_module(module), name)(config, kernels, device)
    return model
