"""Log-probabilities of the model's own distribution, before any sampling parameter.

Float32 log-softmax of the raw logits, never below -9999.0 (JSON knows no infinity). Alternatives
are listed best first, equals by the lower id.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engine.request import TokenLogprobs
from engine.sampler.ranking import best_tokens

MIN_LOGPROB = -9999.0

# Rows of logits worked on at once, to bound the memory that a long prompt takes.
_MAX_ELEMENTS = 1 << 22


class LogprobTensors(NamedTuple):
    """`chosen`, `ranks` [num_rows]; `top_token_ids`, `top` [num_rows, num_top], best first."""

    chosen: Tensor
    ranks: Tensor
    top_token_ids: Tensor
    top: Tensor


def compute_logprobs(logits: Tensor, token_ids: Tensor, num_top: int) -> LogprobTensors:
    """Log-probability and rank of `token_ids` [num_rows], and the `num_top` best of each row.

    `logits` [num_rows, vocab] float32, unmodified. NaN counts as -9999.0; whoever drew from the row
    reports it.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    logprobs = logprobs.nan_to_num_(nan=MIN_LOGPROB).clamp_(min=MIN_LOGPROB)
    chosen = logprobs.gather(1, token_ids[:, None])
    ranks = (logprobs > chosen).sum(dim=-1) + 1
    chosen = chosen[:, 0]
    if num_top == 0:
        empty = logprobs[:, :0]
        return LogprobTensors(chosen, ranks, empty.to(torch.int64), empty)
    drops, top_token_ids = best_tokens(logprobs.abs_(), num_top)
    return LogprobTensors(chosen, ranks, top_token_ids, 0.0 - drops)


def to_entries(tensors: LogprobTensors, num_top: list[int]) -> list[TokenLogprobs]:
    """Tensors on the host to one entry for each row, with the first `num_top[i]` alternatives."""
    columns = (column.tolist() for column in tensors)
    return [
        TokenLogprobs(chosen, rank, token_ids[:num], logprobs[:num])
        for chosen, rank, token_ids, logprobs, num in zip(*columns, num_top, strict=True)
    ]


def prompt_logprobs(logits: Tensor, targets: list[int], num_top: int) -> list[TokenLogprobs]:
    """For each row of `logits` [len(targets), vocab], its target's log-probability and the best.

    Waits for the device.
    """
    num_top = min(num_top, logits.shape[1])
    target_ids = torch.tensor(targets, dtype=torch.int64, device=logits.device)
    rows_at_once = max(1, _MAX_ELEMENTS // logits.shape[1])
    entries: list[TokenLogprobs] = []
    for first in range(0, len(targets), rows_at_once):
        part = slice(first, first + rows_at_once)
        tensors = compute_logprobs(logits[part], target_ids[part], num_top)
        on_host = LogprobTensors(*(tensor.cpu() for tensor in tensors))
        entries += to_entries(on_host, [num_top] * len(on_host.chosen))
    return entries
