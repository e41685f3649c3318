"""The stages of sampling before the draw, as pure functions of tensors.

Logits are changed by penalties, bias, allowed tokens, bad words and the min_tokens mask, in this
order. From the temperature on, a token is known by its *drop*: how far it lies below the best one,
>= 0, inf when it is out. Drops cannot overflow, and min_p and top_p read off them directly.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A forbidden token's logit: below all that a model makes, and finite, so that it is still drawn
# where nothing else is left. Better to end too early than with a bad word.
BAD_WORD = torch.finfo(torch.float32).min
TOO_EARLY = BAD_WORD / 2
# What a repetition penalty close to 0 raises a logit to at most: differences to it stay finite.
_HIGHEST = -BAD_WORD / 4

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
    repeated.clamp_(max=_HIGHEST)
    penalized = torch.where(in_output | in_prompt, repeated, logits)
    return penalized.sub_(output_counts * frequency).sub_(in_output * presence)


def add_bias(logits: Tensor, flat_ids: Tensor, bias: Tensor) -> None:
    """Add to single logits, in place. `flat_ids` are distinct: row * vocab + token id."""
    flat = logits.view(-1)
    flat[flat_ids] = flat[flat_ids] + bias


def restrict(logits: Tensor, rows: Tensor, flat_ids: Tensor) -> None:
    """Take all tokens of `rows` out of the draw, in place, but those of `flat_ids`.

    `flat_ids`: row * vocab + token id, at least one for each of `rows`. These stay in the draw even
    where the logit is -inf.
    """
    flat = logits.view(-1)
    allowed = flat[flat_ids].clamp_(min=BAD_WORD)
    logits.index_fill_(0, rows, -torch.inf)
    flat[flat_ids] = allowed


def spare(levels: Tensor, words: Tensor, mismatched: Tensor) -> None:
    """Lift, in place, to inf the levels of the words that have a token which did not match.

    `levels` [num_words]; `words` [num_tokens] int64, each token's word; `mismatched` alike, bool.
    """
    lifts = torch.where(mismatched, torch.inf, -torch.inf)
    levels.scatter_reduce_(0, words, lifts, "amax")


def forbid(logits: Tensor, flat_ids: Tensor, levels: Tensor) -> None:
    """Lower single logits, in place, to at most `levels`: inf changes nothing, -inf stays.

    `flat_ids`: row * vocab + token id, one for each level; the same may come up again.
    """
    logits.view(-1).scatter_reduce_(0, flat_ids, levels, "amin")


def temper(logits: Tensor, temperature: Tensor) -> Tensor:
    """Drops at a temperature: (best logit - logit) / temperature. A row of -inf gives inf."""
    best = logits.amax(dim=-1, keepdim=True).clamp_(min=torch.finfo(logits.dtype).min)
    best.add_(0.0)  # -0 to 0, or a drop of -0 would rank before one of 0
    return (best - logits).div_(temperature)


def apply_min_p(drops: Tensor, max_drop: Tensor) -> None:
    """Take out, in place, what is below min_p times the best; `max_drop` = -log(min_p)."""
    drops.masked_fill_(drops > max_drop, torch.inf)


def weights(drops: Tensor) -> Tensor:
    """Probabilities relative to the best token's, as int64 in units of 2^-40."""
    return drops.neg().exp_().mul_(_WEIGHT_SCALE).to(torch.int64)
