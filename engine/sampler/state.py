"""Sampling for the rows of the runner: plans the stages of a launch, keeps what rows carry along.

`sample` only queues work on the device; `Sampled.wait` reads the result. A stage that no row needs
is left out, and a row's token never depends on the other rows of the launch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.batch import RowStart
from engine.request import Failure, TokenLogprobs
from engine.sampler.draws import Draw, select
from engine.sampler.edits import Edits
from engine.sampler.logprobs import LogprobTensors, compute_logprobs, to_entries
from engine.sampler.ranking import largest
from engine.sampler.rows import RowTable
from engine.sampler.transfer import HostCopy, IntArray, to_device

INVALID_NUMBERS = Failure(
    "numerical_error",
    "the model produced invalid numbers (NaN or infinity) for this request; "
    "if it repeats, the weights are damaged or need --dtype float32",
)


class Sampled:
    """The tokens of one launch: at once on the device, on the host after `wait`."""

    def __init__(
        self,
        token_ids: Tensor,
        invalid: Tensor,
        logprobs: LogprobTensors | None,
        num_top: np.ndarray,
    ) -> None:
        self.token_ids = token_ids  # [num_samples] int64, on the device
        self._num_top = num_top
        self._copy = HostCopy([token_ids, invalid, *(logprobs or ())])

    def wait(self) -> tuple[list[int], list[TokenLogprobs | None], list[Failure | None]]:
        """Token ids, log-probabilities (None where not asked for) and errors, one for each sample.

        A row with an error has token id 0 and no log-probabilities.
        """
        token_ids, invalid, *logprobs = self._copy.wait()
        errors = [INVALID_NUMBERS if bad else None for bad in invalid.tolist()]
        entries: list[TokenLogprobs | None] = [None] * len(errors)
        if logprobs:
            asked = np.flatnonzero(self._num_top >= 0)
            num_top = self._num_top[asked].tolist()
            for i, entry in zip(
                asked.tolist(), to_entries(LogprobTensors(*logprobs), num_top), strict=True
            ):
                entries[i] = None if errors[i] else entry
        return token_ids.tolist(), entries, errors


class SamplingState:
    """What each of `max_num_seqs` rows asked for, and what their draws look back at.

    `draw` None is the best one for `device`.
    """

    def __init__(
        self, max_num_seqs: int, vocab_size: int, device: torch.device, draw: Draw | None = None
    ) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._table = RowTable(max_num_seqs, vocab_size)
        self._edits = Edits(self._table, max_num_seqs, vocab_size, device)
        self._draw = draw or select(vocab_size, device)

    def start(self, row_start: RowStart) -> None:
        """A sequence enters a row; whatever the row had before is void."""
        self._table.start(row_start)
        self._edits.start(row_start)

    def sample(self, logits: Tensor, rows: list[int], positions: list[int]) -> Sampled:
        """Draw one token for each of `rows`, which are distinct where draws depend on each other.

        `logits` [num_samples, vocab] float32, not changed. `positions[i]` is the position that the
        token will take: the number of tokens before it.
        """
        assert logits.shape == (len(rows), self._vocab_size) and len(rows) == len(positions)
        assert logits.dtype == torch.float32
        row_ids, at = np.array(rows, dtype=np.int64), np.array(positions, dtype=np.int64)
        numbers = self._table.numbers(row_ids)
        invalid = largest(logits).isfinite().logical_not_()
        edited = self._edits.apply(logits, row_ids, numbers, at)
        token_ids = self._draw(edited, numbers, at).masked_fill_(invalid, 0)
        self._edits.remember(row_ids, numbers, at, token_ids)
        num_top = numbers["num_top"]
        logprobs = self._logprobs(logits, token_ids, num_top) if (num_top >= 0).any() else None
        return Sampled(token_ids, invalid, logprobs, num_top)

    def _logprobs(self, logits: Tensor, token_ids: Tensor, num_top: IntArray) -> LogprobTensors:
        """Of the rows that asked; as many alternatives for all as one of them wants."""
        asked = np.flatnonzero(num_top >= 0)
        if len(asked) < len(num_top):
            index = to_device(asked, self._device)
            logits, token_ids = logits[index], token_ids[index]
        return compute_logprobs(logits, token_ids, int(num_top.max()))
