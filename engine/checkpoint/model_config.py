"""The shape of a model, normalised once from GGUF metadata or a Hugging Face `config.json`.

Data differs: a field here. Structure differs: another file in `engine/models/`. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched past the trained length.

    "linear" divides all frequencies by `factor`; "llama3" does so by wavelength, between
    `low_freq_factor` and `high_freq_factor` of `original_max_position_embeddings`.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only transformer. `architecture` names the file in `engine/models/` ("llama").

    `rms_norm_eps` is added to what any kind of norm divides by. Where positions are learned there
    are `num_positions` of them, and `rope_theta` is 0.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_model_len: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = False
    num_positions: int = 0
