"""What the draw's kernels are timed on: rows of logits, one kind of parameters in all of them.

Right is what torch's functions draw on the CPU for the same logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.gpu.check_kernels import Error
from benchmarks.gpu.kernel_cases import Case, Made
from engine.batch import RowStart
from engine.request import SamplingParams
from engine.sampler import draws
from engine.sampler.rows import RowTable
from engine.sampler.transfer import to_device
from engine.sampler.triton import TritonDraw
from engine.sampler.triton.draw import pack

_PARAMETERS = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.6},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "top_k and top_p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
}
_POSITION = 100
# Rows that differ are wrong, be there one in a thousand.
_EPSILON = 1e-4


def draw_cases(vocab_size: int, num_rows: Sequence[int], device: torch.device) -> Iterator[Case]:
    """The draw for each number of rows and kind of parameters; logits are read at least once."""
    draw = TritonDraw(vocab_size, device)
    for rows in num_rows:
        for name in _PARAMETERS:
            make = partial(_make, draw, name, rows, vocab_size, device)
            yield Case(f"{name}, {rows} x {vocab_size}", 4.0 * rows * vocab_size, 0.0, make)


def _make(
    draw: TritonDraw, name: str, num_rows: int, vocab_size: int, device: torch.device
) -> Made:
    table = RowTable(num_rows, vocab_size)
    for row in range(num_rows):
        sampling = SamplingParams(seed=row, max_tokens=1, **_PARAMETERS[name])
        table.start(RowStart(row, 0, sampling, [1, 2], num_prompt_tokens=2))
    numbers = table.numbers(np.arange(num_rows))
    positions = np.full(num_rows, _POSITION)
    generator = torch.Generator().manual_seed(num_rows)
    logits = 3 * torch.randn(num_rows, vocab_size, generator=generator)
    on_device, words = logits.to(device), to_device(pack(numbers, positions), device)

    def error() -> Error:
        cpu = torch.device("cpu")
        wanted = draws.select(vocab_size, cpu)(logits, numbers, positions)
        different = float((draw.draw(on_device, words).cpu() != wanted).float().mean())
        return Error("", different, 0.0, 0.0, 0.0, _EPSILON)

    return Made(lambda: draw.draw(on_device, words), error)
