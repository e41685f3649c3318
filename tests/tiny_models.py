"""Small random models of each family as Hugging Face folders, and a bare engine to run them in.

transformers is the oracle: same folder, same token ids.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from engine.attention import Span, StepLayout
from engine.checkpoint import open_checkpoint
from engine.config import Quantization
from engine.kernels import select
from engine.kv_cache import KVCache
from engine.models import build_model
from engine.weights import load_weights

CPU = torch.device("cpu")

_SIZES: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

_SCALING_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_SCALING_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}

# name: (configuration class, what differs from _SIZES)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    "smollm2": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama3-rope": ("LlamaConfig", {"rope_parameters": _SCALING_LLAMA3}),
    "linear-rope": ("LlamaConfig", {"rope_parameters": _SCALING_LINEAR}),
    "all-heads-own-kv": ("LlamaConfig", {"num_key_value_heads": 6}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {"head_dim": None}),
    "qwen3": ("Qwen3Config", {"tie_word_embeddings": True, "head_dim": 32}),
}
# Layers that differ in whether they turn and in what they see; test_families.py has all others.
_WINDOW = {"no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 40}
_MORE_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {"smollm3": ("SmolLM3Config", _WINDOW)}


def save_tiny_model(family: str, folder: Path) -> transformers.PreTrainedModel:
    """Write a random float32 model to `folder`; returns it as transformers has it."""
    config_name, changes = (FAMILIES | _MORE_FAMILIES)[family]
    fields = {name: value for name, value in {**_SIZES, **changes}.items() if value is not None}
    return save_random_model(config_name, fields, folder)


def save_random_model(
    config_name: str, keys: dict[str, Any], folder: Path
) -> transformers.PreTrainedModel:
    """The same for any class of configuration."""
    config = getattr(transformers, config_name)(**deepcopy(keys))  # it writes into them
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases: not all ones and zeros
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model = model.float().eval()
    model.save_pretrained(folder)
    return model


@dataclass
class Chunk:
    """Token ids of `row` at positions from `start`."""

    row: int
    token_ids: list[int]
    start: int


class BareEngine:
    """A model with pages and no scheduler: every row owns its pages, in scattered order."""

    def __init__(
        self,
        path: Path,
        *,
        num_rows: int = 16,
        max_model_len: int = 640,
        block_size: int = 16,
        dtype: torch.dtype = torch.float32,
        quantization: Quantization = "auto",
        kernels: str = "auto",
    ) -> None:
        """`kernels` by the name that `select` takes."""
        checkpoint = open_checkpoint(path)
        self.config = checkpoint.config
        self.block_size = block_size
        self.kernels = select(CPU, dtype, kernels)
        self.model = build_model(self.config.as_served(max_model_len), self.kernels, CPU)
        load_weights(self.model, checkpoint, CPU, dtype, lambda *_: None, quantization)
        max_blocks = -(-max_model_len // block_size)
        num_blocks = num_rows * max_blocks
        self.kv_cache = KVCache(self.config, num_blocks, block_size, CPU, dtype)
        order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(3))
        self.block_tables = order.view(num_rows, max_blocks).to(torch.int32)

    @torch.inference_mode()
    def run(self, chunks: list[Chunk]) -> list[Tensor]:
        """One step; the logits [num_tokens, vocab_size] of every token of each chunk."""
        spans, rows, positions, token_ids = [], [], [], []
        for chunk in chunks:
            length = len(chunk.token_ids)
            spans.append(Span(chunk.row, len(token_ids), length, chunk.start))
            token_ids += chunk.token_ids
            rows += [chunk.row] * length
            positions += range(chunk.start, chunk.start + length)
        layout = StepLayout(
            spans=spans,
            rows=torch.tensor(rows),
            positions=torch.tensor(positions),
            block_tables=self.block_tables,
            blank_block=self.kv_cache.blank_block,
            block_size=self.block_size,
            num_heads=self.config.num_heads,
            num_kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
        )
        plan = self.kernels.plan(layout)
        hidden = self.model.forward(torch.tensor(token_ids), plan, self.kv_cache)
        logits = self.model.compute_logits(hidden)
        return list(logits.split([len(chunk.token_ids) for chunk in chunks]))
