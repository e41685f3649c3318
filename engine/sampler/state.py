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
from engine.sampler.draw import DrawInputs, draw_from_all, draw_from_best, draw_from_nucleus
from engine.sampler.edits import Edits
from engine.sampler.gumbel import noise_keys
from engine.sampler.logprobs import LogprobTensors, compute_logprobs, to_entries
from engine.sampler.ranking import best_token, largest
from engine.sampler.rows import DrawMethod, Numbers, RowTable
from engine.sampler.transfer import HostCopy, IntArray, columns_to_device, to_device

INVALID_NUMBERS = Failure(
    "numerical_error",
    "the model produced invalid numbers (NaN or infinity) for this request; "
    "if it repeats, the weights are damaged or need --dtype float32",
)

# Logits worked on at once: temporaries that stay in a CPU's caches, and plenty for a GPU.
_MAX_ELEMENTS_CPU = 1 << 18
_MAX_ELEMENTS_GPU = 1 << 25


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
    """What each of `max_num_seqs` rows asked for, and what their draws look back at."""

    def __init__(self, max_num_seqs: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._table = RowTable(max_num_seqs, vocab_size)
        self._edits = Edits(self._table, max_num_seqs, vocab_size, device)
        self._token_ids = torch.arange(vocab_size, dtype=torch.int32, device=device)[None]

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

    def _draw(self, logits: Tensor, numbers: Numbers, positions: IntArray) -> Tensor:
        """One token for each row. Rows that need different work are drawn in groups."""
        token_ids = torch.zeros(len(numbers), dtype=torch.int64, device=self._device)
        for members in _groups(numbers):
            if len(members) == len(numbers):
                return self._draw_group(logits, numbers, positions)
            index = to_device(members, self._device)
            token_ids[index] = self._draw_group(logits[index], numbers[members], positions[members])
        return token_ids

    def _draw_group(self, logits: Tensor, numbers: Numbers, positions: IntArray) -> Tensor:
        """Rows of one method and width, a part of them at a time."""
        method, width = numbers["method"][0], int(numbers["width"][0])
        if method == DrawMethod.GREEDY:
            return best_token(logits)
        on_cpu = self._device.type == "cpu"
        inputs = self._draw_inputs(numbers, positions)
        drawn_parts = []
        for part in self._parts(len(numbers)):
            part_logits, part_inputs = logits[part], inputs.part(part)
            if method == DrawMethod.ALL:
                drawn = draw_from_all(part_logits, part_inputs, self._token_ids)
            elif method == DrawMethod.NUCLEUS and on_cpu:
                drawn = draw_from_nucleus(part_logits, part_inputs, self._token_ids)
            else:
                drawn = draw_from_best(part_logits, part_inputs, width)
            drawn_parts.append(drawn)
        return torch.cat(drawn_parts)

    def _parts(self, num_rows: int) -> list[slice]:
        """Slices of the rows, to be worked on one after the other."""
        limit = _MAX_ELEMENTS_CPU if self._device.type == "cpu" else _MAX_ELEMENTS_GPU
        step = max(1, limit // self._vocab_size)
        return [slice(first, first + step) for first in range(0, num_rows, step)]

    def _draw_inputs(self, numbers: Numbers, positions: IntArray) -> DrawInputs:
        names = ("temperature", "max_drop", "top_k", "top_p")
        columns = columns_to_device([numbers[name] for name in names], self._device)
        temperature, max_drop, top_k, top_p = columns
        return DrawInputs(
            temperature=temperature,
            max_drop=max_drop if np.isfinite(numbers["max_drop"]).any() else None,
            top_k=top_k.to(torch.int64),
            top_p=top_p,
            keys=to_device(noise_keys(numbers["stream"], positions), self._device),
        )

    def _logprobs(self, logits: Tensor, token_ids: Tensor, num_top: IntArray) -> LogprobTensors:
        """Of the rows that asked; as many alternatives for all as one of them wants."""
        asked = np.flatnonzero(num_top >= 0)
        if len(asked) < len(num_top):
            index = to_device(asked, self._device)
            logits, token_ids = logits[index], token_ids[index]
        return compute_logprobs(logits, token_ids, int(num_top.max()))


def _groups(numbers: Numbers) -> list[IntArray]:
    """Indices of the rows that share a method, and for `DrawMethod.BEST` a width."""
    kinds = numbers["width"].astype(np.int64) * len(DrawMethod) + numbers["method"]
    return [np.flatnonzero(kinds == kind) for kind in sorted(set(kinds.tolist()))]
