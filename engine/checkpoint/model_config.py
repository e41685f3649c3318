"""The shape of a model, normalised once from GGUF metadata or a Hugging Face `config.json`.

Data differs: a field here. Structure differs: another file in `engine/models/`. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched past the trained length, which is
    `original_max_position_embeddings`.

    "linear" divides all frequencies by `factor`; "llama3" does so by wavelength, between
    `low_freq_factor` and `high_freq_factor` of the trained length; "yarn" by the number of turns in
    the trained length, between `beta_fast` and `beta_slow` (Peng et al., 2023), whose dimensions
    are rounded if `truncate`; "longrope" by a divisor for each frequency (Ding et al., 2024):
    `short_factors` where no more than the trained length is served, else `long_factors`. Sines and
    cosines are multiplied by `attention_factor`.
    """

    kind: Literal["linear", "llama3", "yarn", "longrope"]
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only transformer. `architecture` names the file in `engine/models/` ("llama").

    Only the first `rotary_dim` numbers of a head turn, all where it is None; in the layers of
    `still_layers` none do, and where positions are learned, `num_positions` of them, nothing turns.
    Layers with a window turn by `local_rope_theta`, unscaled, if it is not None. `windows` are the
    last positions that a token of each layer sees, itself included, None for all; empty, if all
    layers see everything.

    `attention_scale` and `attention_soft_cap` are those of an `AttentionRule`; `logit_soft_cap`
    bends logits in the same way. `norm_eps` is added to what any kind of norm divides by;
    `has_post_norms`: there are norms after attention and MLP, too.
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
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    rotary_dim: int | None = None
    still_layers: frozenset[int] = frozenset()
    windows: tuple[int | None, ...] = ()
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = False
    local_rope_theta: float | None = None
    num_positions: int = 0
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    has_post_norms: bool = False

    def as_served(self, max_model_len: int | None) -> ModelConfig:
        """For contexts of this length; None is the model's own. LongRoPE depends on it."""
        return self if max_model_len is None else replace(self, max_model_len=max_model_len)

    def window(self, layer: int) -> int | None:
        """The window of a layer, if it has one that some context is longer than."""
        window = self.windows[layer] if self.windows else None
        return window if window is not None and window < self.max_model_len else None
