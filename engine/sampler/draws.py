"""The draw that suits a device: torch's functions, or Triton's kernels."""

from __future__ import annotations

import importlib
import logging
from typing import Protocol

import torch
from torch import Tensor

from engine.sampler.rows import Numbers
from engine.sampler.torch_draw import TorchDraw
from engine.sampler.transfer import IntArray

logger = logging.getLogger("octavo.engine")

# Logits worked on at once: temporaries that stay in a CPU's caches, and plenty for a GPU.
_MAX_ELEMENTS_CPU = 1 << 18
_MAX_ELEMENTS_GPU = 1 << 25


class Draw(Protocol):
    """Draws a token for each row of a launch. Queues work on the device and does not wait for it.

    Given the same logits, all implementations draw the same token, unless two candidates, or a
    token and the edge of its nucleus, lie within float32's rounding of each other.
    """

    def __call__(self, logits: Tensor, numbers: Numbers, positions: IntArray) -> Tensor:
        """`logits` [num_rows, vocab] float32 after all edits, not changed -> [num_rows] int64.

        `numbers` are the rows' entries of the table; `positions` [num_rows] the positions that
        the tokens will take. A row with NaN or inf gives any token of the vocabulary.
        """


def select(vocab_size: int, device: torch.device) -> Draw:
    """The best draw for `device`."""
    if device.type == "cpu":
        return TorchDraw(vocab_size, device, _MAX_ELEMENTS_CPU, sorts_nuclei=False)
    if device.type != "cuda":
        return TorchDraw(vocab_size, device, _MAX_ELEMENTS_GPU, sorts_nuclei=True)
    try:
        kernels = importlib.import_module("engine.sampler.triton")
        draw: Draw = kernels.TritonDraw(vocab_size, device)
    except Exception as error:  # Triton raises many kinds: no C compiler, an unknown GPU
        logger.warning("sampling sorts, which is slower: Triton's kernels do not run: %s", error)
        return TorchDraw(vocab_size, device, _MAX_ELEMENTS_GPU, sorts_nuclei=True)
    return draw
