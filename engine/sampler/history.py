"""The tokens of rows, kept on the device: what penalties and bad words look back at.

Drawn tokens are added by the launch that drew them, so a launch may follow before the host has seen
them.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MIN_CAPACITY = 1024


class History:
    """Token ids by row and position; a row is meaningful once `start` was called for it."""

    def __init__(self, max_num_seqs: int, device: torch.device) -> None:
        # [max_num_seqs, capacity]; the capacity grows.
        shape = (max_num_seqs, _MIN_CAPACITY)
        self._token_ids = torch.zeros(shape, dtype=torch.int64, device=device)

    def start(self, row: int, token_ids: Tensor) -> None:
        """Forget the row's past and take these ids (int64, on the device) instead."""
        self._reserve(len(token_ids))
        self._token_ids[row, : len(token_ids)] = token_ids

    def add(self, rows: Tensor, positions: Tensor, token_ids: Tensor, length: int) -> None:
        """Add one drawn token to each of `rows`, which are distinct; `length` > all `positions`."""
        self._reserve(length)
        self._token_ids[rows, positions] = token_ids

    def first(self, rows: Tensor, length: int) -> Tensor:
        """The first `length` tokens of each row, [num_rows, length].

        `length` is at most the longest row's; what lies behind the end of a shorter one is any id.
        """
        return self._token_ids[rows, :length]

    def at(self, rows: Tensor, positions: Tensor) -> Tensor:
        """One token for each pair of a row and a position in it."""
        return self._token_ids[rows, positions]

    def _reserve(self, length: int) -> None:
        num_rows, capacity = self._token_ids.shape
        if length > capacity:
            wider = self._token_ids.new_zeros(num_rows, max(length, 2 * capacity))
            wider[:, :capacity] = self._token_ids
            self._token_ids = wider
