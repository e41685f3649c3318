"""Launches the kernels of the draw."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.sampler.gumbel import noise_keys
from engine.sampler.rows import DrawMethod, Numbers
from engine.sampler.transfer import IntArray, to_device
from engine.sampler.triton import kernels

# The kernels' name for each of `DrawMethod`.
_METHODS = np.full(len(DrawMethod), kernels.CUT.value, dtype=np.int32)
_METHODS[DrawMethod.GREEDY] = kernels.GREEDY.value
_METHODS[DrawMethod.ALL] = kernels.ALL.value

# Programs of a launch over few rows: a few for each multiprocessor of a large GPU.
_NUM_PROGRAMS = 512


class TritonDraw:
    """Implements `draws.Draw`: the same four launches for any rows, no shape depends on data."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        # Compiles the kernels now, and not for the first request.
        words = torch.zeros(1, kernels.NUM_WORDS.value, dtype=torch.int32, device=device)
        self.draw(torch.zeros(1, vocab_size, device=device), words)

    def __call__(self, logits: Tensor, numbers: Numbers, positions: IntArray) -> Tensor:
        return self.draw(logits, to_device(pack(numbers, positions), self._device))

    def draw(self, logits: Tensor, words: Tensor) -> Tensor:
        """`words` as `pack` makes them, on the device. May be captured in a CUDA graph."""
        assert logits.dtype == torch.float32 and logits.stride(1) == 1
        num_rows, vocab_size = logits.shape
        token_ids = torch.empty(num_rows, dtype=torch.int64, device=self._device)
        if num_rows == 0:
            return token_ids
        num_splits, chunk = _split(num_rows, vocab_size)
        grid = (num_rows, num_splits)
        best, costs = self._scratch(torch.float32, 2, num_rows, kernels.MAX_SPLITS.value)
        best_ids, cost_ids = self._scratch(torch.int32, 2, num_rows, kernels.MAX_SPLITS.value)
        (counts,) = self._scratch(torch.int32, 1, num_rows, kernels.BINS.value)
        (masses,) = self._scratch(torch.int64, 1, num_rows, kernels.BINS.value)
        (listed,) = self._scratch(torch.int64, 1, num_rows, kernels.MAX_LISTED.value)
        (num_listed,) = self._scratch(torch.int32, 1, num_rows, 1)
        # Without fused multiply-add the same bits come out everywhere.
        options = {"enable_fp_fusion": False}
        rows = (logits, logits.stride(0), words)
        binned = (counts, masses)
        found = (listed, num_listed, costs, cost_ids)
        kernels.find_best[grid](
            *rows, best, best_ids, *binned, num_listed, vocab_size, chunk, **options
        )
        kernels.count[grid](*rows, best, *binned, vocab_size, chunk, num_splits, **options)
        kernels.spread[grid](*rows, best, *binned, *found, vocab_size, chunk, num_splits, **options)
        kernels.finish[(num_rows,)](
            *rows, best, best_ids, *binned, *found, token_ids, vocab_size, num_splits, **options
        )
        return token_ids

    def _scratch(self, dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)


def pack(numbers: Numbers, positions: IntArray) -> np.ndarray:
    """What the kernels know of each row: int32 words [num_rows, NUM_WORDS], for one copy."""
    words = np.zeros((len(numbers), kernels.NUM_WORDS.value), dtype=np.int32)
    words[:, kernels.METHOD.value] = _METHODS[numbers["method"]]
    words[:, kernels.TOP_K.value] = numbers["top_k"]
    words[:, kernels.KEY_LOW.value : kernels.KEY_HIGH.value + 1] = noise_keys(
        numbers["stream"], positions
    )
    for index, name in (
        (kernels.TEMPERATURE, "temperature"),
        (kernels.MAX_DROP, "max_drop"),
        (kernels.TOP_P, "top_p"),
    ):
        words[:, index.value] = numbers[name].view(np.int32)
    return words


def _split(num_rows: int, vocab_size: int) -> tuple[int, int]:
    """Over how many programs to split each row, and how many tokens each takes."""
    block = kernels.BLOCK.value
    num_blocks = -(-vocab_size // block)
    wanted = min(-(-_NUM_PROGRAMS // num_rows), kernels.MAX_SPLITS.value, num_blocks)
    blocks_each = -(-num_blocks // wanted)
    return -(-num_blocks // blocks_each), blocks_each * block
