"""The tokens of a row in one order that no device and no batch can change.

Tokens are ranked by their *drop*: how far they lie below the row's best one, >= 0. Equal drops are
ranked by token id. Knows nothing of what the drops mean.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rank_keys(drops: Tensor) -> Tensor:
    """Integers in the order of the ranks, no two equal: `drops` [num_rows, vocab] -> int64.

    A float32 >= 0 is ordered as its bits are; they take the high word, the token id the low one.
    """
    keys = drops.view(torch.int32).to(torch.int64).bitwise_left_shift_(32)
    return keys.bitwise_or_(torch.arange(drops.shape[1], device=drops.device))


def best_tokens(drops: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The `width` tokens with the smallest drops, best first.

    `drops` [num_rows, vocab] float32 -> drops [num_rows, width] float32 and token ids
    [num_rows, width] int64. Keys, because `topk` of the drops would leave the order of equals open.
    """
    keys = rank_keys(drops)
    if width == drops.shape[1]:
        best = keys.sort(dim=-1).values
    else:
        best = keys.topk(width, dim=-1, largest=False, sorted=True).values
    return (best >> 32).to(torch.int32).view(torch.float32), best & 0xFFFFFFFF


def largest(logits: Tensor) -> Tensor:
    """Each row's largest logit, NaN where there is one: [num_rows, vocab] -> [num_rows].

    On the CPU numpy looks, here and below: torch has its threads do so, which takes several times
    as long and keeps the cores from those of the kernels.
    """
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().max(axis=1))
    return logits.amax(dim=-1)


def best_token(logits: Tensor) -> Tensor:
    """The token of each row's largest logit, the lowest of equals -> [num_rows] int64."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(axis=1))
    return logits.argmax(dim=-1)
