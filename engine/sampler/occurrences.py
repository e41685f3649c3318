"""Which tokens have occurred in the rows that use penalties, kept on the device.

Drawn tokens are added by the launch that drew them, so a launch may follow before the host has seen
them. Listing what occurred lets the penalties touch these tokens alone, not the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_MIN_CAPACITY = 1024


class Occurred(NamedTuple):
    """`token_ids` [num_rows, length] int64, each with its `output_counts` (int32) and `in_prompt`.

    Repeats tokens. Rows that are shorter are filled up with tokens of any kind; what did not occur
    in the row has a count of 0 and is not in its prompt.
    """

    token_ids: Tensor
    output_counts: Tensor
    in_prompt: Tensor


class Occurrences:
    """Tables by row; a row is meaningful once `start` was called for it."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        shape = (max_num_seqs, vocab_size)
        self._output_counts = torch.zeros(shape, dtype=torch.int32, device=device)
        self._in_prompt = torch.zeros(shape, dtype=torch.bool, device=device)
        # The sequence itself, [max_num_seqs, capacity]; the capacity grows.
        history_shape = (max_num_seqs, _MIN_CAPACITY)
        self._history = torch.zeros(history_shape, dtype=torch.int64, device=device)

    def start(self, row: int, token_ids: Tensor, num_prompt_tokens: int) -> None:
        """Forget the row's past and take these ids (int64, on the device) instead."""
        prompt, output = token_ids[:num_prompt_tokens], token_ids[num_prompt_tokens:]
        ones = torch.ones_like(output, dtype=torch.int32)
        self._output_counts[row].zero_().index_add_(0, output, ones)
        self._in_prompt[row].zero_().index_fill_(0, prompt, True)
        self._reserve(len(token_ids))
        self._history[row, : len(token_ids)] = token_ids

    def add(self, rows: Tensor, positions: Tensor, token_ids: Tensor, length: int) -> None:
        """Add one drawn token to each of `rows`, which are distinct; `length` > all `positions`."""
        self._reserve(length)
        self._history[rows, positions] = token_ids
        self._output_counts[rows, token_ids] += 1

    def gather(self, rows: Tensor, length: int) -> Occurred:
        """What occurred in `rows`, of which none has more than `length` tokens."""
        token_ids = self._history[rows, :length]
        at = (rows[:, None], token_ids)
        return Occurred(token_ids, self._output_counts[at], self._in_prompt[at])

    def _reserve(self, length: int) -> None:
        num_rows, capacity = self._history.shape
        if length > capacity:
            wider = self._history.new_zeros(num_rows, max(length, 2 * capacity))
            wider[:, :capacity] = self._history
            self._history = wider
