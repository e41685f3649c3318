"""The sampler's draws on a device against its own on the CPU: same logits, same seeds.

The noise is integers up to the last step, so the tokens are equal but for a few whose costs differ
by less than the last digits of a logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from engine.batch import RowStart
from engine.request import SamplingParams
from engine.sampler import SamplingState

_MAX_DIFFERENT = 1e-3
_PROMPT = [5, 9, 11, 9]

PARAMETERS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_k": {"top_k": 40},
    "top_p": {"top_p": 0.9},
    "top_k and top_p": {"top_k": 200, "top_p": 0.8, "temperature": 0.7},
    "min_p": {"min_p": 0.05},
    "all": {"temperature": 1.3, "top_k": 500, "top_p": 0.95, "min_p": 0.001},
    "penalties": {"presence_penalty": 0.7, "frequency_penalty": 0.3, "repetition_penalty": 1.2},
    "bias": {"logit_bias": {7: 4.0, 11: -3.0}},
    "allowed": {"allowed_token_ids": tuple(range(3, 60, 4))},
    "bad words": {"bad_words": ((9,), (4, 6))},
}


@dataclass(frozen=True)
class Draws:
    """How many of `num_draws` differ from the CPU's."""

    name: str
    num_draws: int
    num_different: int

    @property
    def is_right(self) -> bool:
        return self.num_different <= _MAX_DIFFERENT * self.num_draws


@torch.inference_mode()
def check_sampler(device: torch.device, vocab_size: int, num_rows: int, steps: int) -> list[Draws]:
    """Each kind of parameters in all rows, then every row with another kind."""
    kinds = list(PARAMETERS.values())
    mixed = [kinds[row % len(kinds)] for row in range(num_rows)]
    checked = [
        _draw(name, [kind] * num_rows, device, vocab_size, steps)
        for name, kind in PARAMETERS.items()
    ]
    return [*checked, _draw("mixed", mixed, device, vocab_size, steps)]


def _draw(
    name: str, parameters: list[dict[str, Any]], device: torch.device, vocab_size: int, steps: int
) -> Draws:
    num_rows = len(parameters)
    random = Random(name)  # noqa: S311
    seeds = [random.getrandbits(63) for _ in parameters]
    states = []
    for target in (torch.device("cpu"), device):
        state = SamplingState(num_rows, vocab_size, target)
        for row, (seed, kind) in enumerate(zip(seeds, parameters, strict=True)):
            sampling = SamplingParams(seed=seed, max_tokens=1000, **kind)
            state.start(RowStart(row, row % 3, sampling, _PROMPT, len(_PROMPT)))
        states.append((state, target))
    generator = torch.Generator().manual_seed(13)
    num_different = 0
    # A row that differed once has another past where draws look back at it.
    same = torch.ones(num_rows, dtype=torch.bool)
    num_draws = 0
    for step in range(steps):
        logits = 3 * torch.randn(num_rows, vocab_size, generator=generator)
        drawn = [
            state.sample(logits.to(target), list(range(num_rows)), [len(_PROMPT) + step] * num_rows)
            for state, target in states
        ]
        tokens, others = (torch.tensor(sampled.wait()[0]) for sampled in drawn)
        num_draws += int(same.sum())
        num_different += int((same & (tokens != others)).sum())
        same &= tokens == others
    return Draws(name, num_draws, num_different)
