"""Rotary embedding (Su et al., 2021) in the half-split layout of Hugging Face, and its scalings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.checkpoint.model_config import ModelConfig, RopeScaling


class Rotary:
    """Angles of a model's heads by position.

    Where only a part of a head turns, its pairs come first in either half (see
    `checkpoint.tensor_data.to_wide_rotary`); those after them have a frequency of 0.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        rotary_dim, scaling = config.rotary_dim or config.head_dim, config.rope_scaling
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
        frequencies = _frequencies(config.rope_theta**exponents, config)
        num_still = (config.head_dim - rotary_dim) // 2
        self.frequencies = torch.cat((frequencies, torch.zeros(num_still))).to(device)
        self._lengths: Tensor | None = None  # [head_dim / 2], what vectors are multiplied by
        if scaling is not None and scaling.attention_factor != 1.0:
            lengths = torch.full_like(frequencies, scaling.attention_factor)
            self._lengths = torch.cat((lengths, torch.ones(num_still))).to(device)

    def __call__(self, positions: Tensor) -> Tensor:
        """[num_tokens] -> [num_tokens, 2, head_dim] float32: (cos, cos) and (-sin, sin)."""
        angles = positions[:, None].float() * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        if self._lengths is not None:
            cos, sin = cos * self._lengths, sin * self._lengths
        return torch.cat((cos, cos, -sin, sin), dim=-1).view(len(positions), 2, -1)

    def still(self, positions: Tensor) -> Tensor:
        """The same for layers in which nothing turns."""
        shape = (len(positions), 1, 2 * self.frequencies.shape[0])
        ones = torch.ones(shape, device=positions.device)
        return torch.cat((ones, torch.zeros_like(ones)), dim=1)


def _frequencies(periods: Tensor, config: ModelConfig) -> Tensor:
    """Of the pairs that turn, from their unscaled `periods` (divided by 2 pi)."""
    scaling, frequencies = config.rope_scaling, 1.0 / periods
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling)
    if scaling.kind == "yarn":
        return _yarn(frequencies, scaling, config.rope_theta)
    is_long = config.max_model_len > scaling.original_max_position_embeddings
    return 1.0 / (
        torch.tensor(scaling.long_factors if is_long else scaling.short_factors) * periods
    )


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Short wavelengths stay, long ones stretch, those between are interpolated."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelengths
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / span).clamp(0, 1)
    return frequencies * kept + frequencies / scaling.factor * (1 - kept)


def _yarn(frequencies: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """As Llama 3's, but interpolated linearly from one pair to the next.

    The first pairs make `beta_fast` turns or more in the trained length and stay; those from
    `beta_slow` turns down stretch.
    """
    num_pairs = frequencies.shape[0]

    def pair_with(num_turns: float) -> float:
        turns_of_first = scaling.original_max_position_embeddings / (2 * math.pi)
        return num_pairs * math.log(turns_of_first / num_turns) / math.log(theta)

    first, last = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * num_pairs - 1)
    span = last - first if last != first else 0.001  # as transformers has it
    stretched = ((torch.arange(num_pairs, dtype=torch.float32) - first) / span).clamp(0, 1)
    return frequencies / scaling.factor * stretched + frequencies * (1 - stretched)
