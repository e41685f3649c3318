"""The draw in torch's functions: rows that need different work are drawn in groups."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.sampler.draw import DrawInputs, draw_from_all, draw_from_best, draw_from_nucleus
from engine.sampler.gumbel import noise_keys
from engine.sampler.ranking import best_token
from engine.sampler.rows import DrawMethod, Numbers
from engine.sampler.transfer import IntArray, columns_to_device, to_device


class TorchDraw:
    """Implements `draws.Draw` on any device.

    `max_elements` logits are worked on at once. `sorts_nuclei` where reading flags on the host
    would make it wait: nuclei are then found by sorting.
    """

    def __init__(
        self, vocab_size: int, device: torch.device, max_elements: int, sorts_nuclei: bool
    ) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._max_elements = max_elements
        self._sorts_nuclei = sorts_nuclei
        self._token_ids = torch.arange(vocab_size, dtype=torch.int32, device=device)[None]

    def __call__(self, logits: Tensor, numbers: Numbers, positions: IntArray) -> Tensor:
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
        inputs = self._draw_inputs(numbers, positions)
        drawn_parts = []
        for part in self._parts(len(numbers)):
            part_logits, part_inputs = logits[part], inputs.part(part)
            if method == DrawMethod.ALL:
                drawn = draw_from_all(part_logits, part_inputs, self._token_ids)
            elif method == DrawMethod.NUCLEUS and not self._sorts_nuclei:
                drawn = draw_from_nucleus(part_logits, part_inputs, self._token_ids)
            else:
                drawn = draw_from_best(part_logits, part_inputs, width)
            drawn_parts.append(drawn)
        return torch.cat(drawn_parts)

    def _parts(self, num_rows: int) -> list[slice]:
        """Slices of the rows, to be worked on one after the other."""
        step = max(1, self._max_elements // self._vocab_size)
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


def _groups(numbers: Numbers) -> list[IntArray]:
    """Indices of the rows that share a method, and for `DrawMethod.BEST` a width."""
    kinds = numbers["width"].astype(np.int64) * len(DrawMethod) + numbers["method"]
    return [np.flatnonzero(kinds == kind) for kind in sorted(set(kinds.tolist()))]
