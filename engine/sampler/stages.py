"""The stages of sampling before the draw, as pure functions of tensors.

Logits are changed by penalties, bias and the min_tokens mask, in this order. From the temperature
on, a token is known by its *drop*: how far it lies below the best one, >= 0, inf when it is out.
Drops cannot overflow, and min_p and top_p read off them directly.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Weights are summed as integers: exact, so that no order of summation can change a nucleus.
_WEIGHT_SCALE = 2.0**40


def penalize(
    logits: Tensor,
    output_counts: Tensor,
    in_prompt: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> Tensor:
    """The logits of tokens after the penalties for having occurred; unchanged where they did not.

    `logits` [n, num_tokens], `output_counts` alike, int32 (occurrences in the output), `in_prompt`
    alike, bool; the penalties [n, 1]. Repetition (Keskar et al. 2019, CTRL) covers prompt and
    output: positive logits are divided by it, negative ones multiplied. Presence and frequency (as
    OpenAI defines them) are subtracted for the output alone, once and per occurrence.
    """
    in_output = output_counts > 0
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    penalized = torch.where(in_output | in_prompt, repeated, logits)
    return penalized.sub_(output_counts * frequency).sub_(in_output * presence)


def add_bias(logits: Tensor, flat_ids: Tensor, bias: Tensor) -> None:
    """Add to single logits, in place. `flat_ids` are distinct: row * vocab + token id."""
    flat = logits.view(-1)
    flat[flat_ids] = flat[flat_ids] + bias


def forbid(logits: Tensor, flat_ids: Tensor) -> None:
    """Take single tokens out of the draw, in place. `flat_ids`: row * vocab + token id."""
    logits.view(-1).index_fill_(0, flat_ids, -torch.inf)


def temper(logits: Tensor, temperature: Tensor) -> Tensor:
    """Drops at a temperature: (best logit - logit) / temperature. A row of -inf gives inf."""
    best = logits.amax(dim=-1, keepdim=True).clamp_(min=torch.finfo(logits.dtype).min)
    return (best - logits).div_(temperature)


def apply_min_p(drops: Tensor, max_drop: Tensor) -> None:
    """Take out, in place, what is below min_p times the best; `max_drop` = -log(min_p)."""
    drops.masked_fill_(drops > max_drop, torch.inf)


def weights(drops: Tensor) -> Tensor:
    """Probabilities relative to the best token's, as int64 in units of 2^-40."""
    return drops.neg().exp_().mul_(_WEIGHT_SCALE).to(torch.int64)
