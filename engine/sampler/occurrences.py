"""Which tokens have occurred in the rows that use penalties, and how often: kept on the device.

Drawn tokens are added by the launch that drew them. Knows nothing of their order: `history.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Occurred(NamedTuple):
    """Of some tokens: how often they were generated (int32), and whether the prompt has them."""

    output_counts: Tensor
    in_prompt: Tensor


class Occurrences:
    """Tables by row; a row is meaningful once `start` was called for it."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        shape = (max_num_seqs, vocab_size)
        self._output_counts = torch.zeros(shape, dtype=torch.int32, device=device)
        self._in_prompt = torch.zeros(shape, dtype=torch.bool, device=device)

    def start(self, row: int, token_ids: Tensor, num_prompt_tokens: int) -> None:
        """Forget the row's past and take these ids (int64, on the device) instead."""
        prompt, output = token_ids[:num_prompt_tokens], token_ids[num_prompt_tokens:]
        ones = torch.ones_like(output, dtype=torch.int32)
        self._output_counts[row].zero_().index_add_(0, output, ones)
        self._in_prompt[row].zero_().index_fill_(0, prompt, True)

    def add(self, rows: Tensor, token_ids: Tensor) -> None:
        """Add one drawn token to each of `rows`, which are distinct."""
        self._output_counts[rows, token_ids] += 1

    def of(self, rows: Tensor, token_ids: Tensor) -> Occurred:
        """`rows` [num_rows], `token_ids` [num_rows, num_tokens]; the answer is shaped alike."""
        at = (rows[:, None], token_ids)
        return Occurred(self._output_counts[at], self._in_prompt[at])
