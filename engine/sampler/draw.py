"""The draw: from logits after all edits to one token for each row.

The token drawn is the one that minimises drop + log(E), E being exponential noise: the same as the
largest logit / temperature + Gumbel noise, without softmax and without a cumulative sum over the
vocabulary. Equals go to the lowest id. A row's token depends on this row alone, and not on which
of these functions drew it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.sampler.gumbel import log_exponential
from engine.sampler.ranking import best_tokens, rank_keys
from engine.sampler.stages import apply_min_p, temper, weights


@dataclass(frozen=True, slots=True)
class DrawInputs:
    """What the draw knows of each row, one column [num_rows, 1] for each parameter.

    `max_drop` is -log(min_p), inf where off; None when no row has a min_p. `top_k` is the
    vocabulary's size where off, `top_p` 1. `keys` [num_rows, 2] int32 are the noise keys.
    """

    temperature: Tensor
    max_drop: Tensor | None
    top_k: Tensor
    top_p: Tensor
    keys: Tensor

    def part(self, rows: slice) -> DrawInputs:
        max_drop = None if self.max_drop is None else self.max_drop[rows]
        return DrawInputs(
            self.temperature[rows], max_drop, self.top_k[rows], self.top_p[rows], self.keys[rows]
        )


def draw_from_all(logits: Tensor, inputs: DrawInputs, token_ids: Tensor) -> Tensor:
    """Rows without top_k and top_p: every token of the vocabulary takes part.

    `logits` [num_rows, vocab]; `token_ids` [1, vocab] int32 counts from 0 -> [num_rows] int64.
    """
    drops = _drops(logits, inputs)
    return drops.add_(log_exponential(token_ids, inputs.keys)).argmin(dim=-1)


def draw_from_best(logits: Tensor, inputs: DrawInputs, width: int) -> Tensor:
    """Rows whose top_k is at most `width`: only this many tokens need noise -> [num_rows] int64.

    With the vocabulary as the width it sorts, and serves any row.
    """
    best, token_ids = best_tokens(_drops(logits, inputs), width)
    best_weights = weights(best)
    cumulative = best_weights.cumsum(dim=-1)
    # top_p is a share of what top_k left.
    target = _nucleus_mass(cumulative.gather(1, inputs.top_k - 1), inputs.top_p)
    rank = torch.arange(width, device=best.device)
    kept = (rank < inputs.top_k) & (cumulative - best_weights < target)

    costs = best + log_exponential(token_ids.to(torch.int32), inputs.keys)
    costs.masked_fill_(~kept, torch.inf)
    lowest = costs.amin(dim=-1, keepdim=True)
    return token_ids.masked_fill(costs > lowest, logits.shape[1]).amin(dim=-1)


def draw_from_nucleus(logits: Tensor, inputs: DrawInputs, token_ids: Tensor) -> Tensor:
    """Rows with top_p and no top_k, without sorting: draw from all, look whether it is inside.

    Draws again for the rows where it is not, with all tokens out that rank no better: the first
    token inside is the one that a draw from the nucleus alone would give. Reads flags on the host,
    which is free on the CPU and stalls a GPU. Arguments as for `draw_from_all`.
    """
    drops = _drops(logits, inputs)
    keys, mass = rank_keys(drops), weights(drops)
    target = _nucleus_mass(mass.sum(dim=-1, keepdim=True), inputs.top_p)
    costs = drops.add_(log_exponential(token_ids, inputs.keys))
    drawn = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    rows = torch.arange(len(logits), device=logits.device)
    while len(rows):
        best = costs.argmin(dim=-1, keepdim=True)
        drawn[rows] = best[:, 0]
        no_better = keys >= keys.gather(1, best)
        outside = mass.masked_fill(no_better, 0).sum(dim=-1) >= target[:, 0]
        rows, costs, keys, mass, target, no_better = (
            tensor[outside] for tensor in (rows, costs, keys, mass, target, no_better)
        )
        costs.masked_fill_(no_better, torch.inf)
    return drawn


def _drops(logits: Tensor, inputs: DrawInputs) -> Tensor:
    drops = temper(logits, inputs.temperature)
    if inputs.max_drop is not None:
        apply_min_p(drops, inputs.max_drop)
    return drops


def _nucleus_mass(total: Tensor, top_p: Tensor) -> Tensor:
    """How much weight the nucleus must reach: a token is inside if those before it have less."""
    return (total.to(torch.float64) * top_p).ceil_().clamp_(min=1).to(torch.int64)
