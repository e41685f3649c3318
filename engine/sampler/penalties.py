"""Which tokens have occurred in the rows that use penalties, kept on the device.

The tables are made when the first such row comes. Drawn tokens are counted by the launch that drew
them, so a launch may follow before the host has seen them.
"""

from __future__ import annotations

import torch
from torch import Tensor


class PenaltyCounts:
    """Tables [max_num_seqs, vocab_size]; a row is meaningful once `start` was called for it."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        shape = (max_num_seqs, vocab_size)
        self._output_counts = torch.zeros(shape, dtype=torch.int32, device=device)
        self._in_prompt = torch.zeros(shape, dtype=torch.bool, device=device)

    def start(self, row: int, prompt_token_ids: Tensor, output_token_ids: Tensor) -> None:
        """Forget the row's past and count these ids instead (int64, on the device)."""
        ones = torch.ones_like(output_token_ids, dtype=torch.int32)
        self._output_counts[row].zero_().index_add_(0, output_token_ids, ones)
        self._in_prompt[row].zero_().index_fill_(0, prompt_token_ids, True)

    def add(self, rows: Tensor, token_ids: Tensor) -> None:
        """Count one drawn token for each of `rows`, which are distinct."""
        self._output_counts[rows, token_ids] += 1

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Output counts (int32) and prompt occurrence (bool) of `rows`, [len(rows), vocab]."""
        return self._output_counts[rows], self._in_prompt[rows]
