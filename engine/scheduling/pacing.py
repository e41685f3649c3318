"""How many prompt tokens a step takes in while others wait for their next token.

A long prompt in one step would hold everybody up. Steps that have both are kept near a length in
seconds, by watching how long they take; where decoding alone takes most of that, prompts get as
much time again, so that nobody waits for ever to begin. With nobody waiting, prompts are computed
as fast as they can be. Outputs do not depend on any of it. Standard library only.
"""

from __future__ import annotations

from engine.batch import Batch
from engine.config import SchedulerConfig

# One step says little: others use the machine too. Shrinking is quicker than growing.
_MOST_SHRINKING, _MOST_GROWING = 0.5, 1.25
# Weight of the newest step in what decoding is thought to cost; how many times as much it may take.
_WEIGHT, _MOST_TIMES = 0.1, 2.0
# Fewer prompt tokens than this make a step hardly any shorter; and a single one is not told from
# one that somebody waits for.
_LEAST = 16


class Pacer:
    """Begins with the configuration's `prompt_budget` and keeps to its `target_step_seconds`."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._target_seconds = config.target_step_seconds
        self._overhead = config.step_overhead
        self._token_seconds = config.token_seconds
        self._most = config.max_num_batched_tokens
        self._least = min(_LEAST, self._most)
        self._budget = float(max(min(config.prompt_budget or self._most, self._most), self._least))

    def prompt_budget(self, num_decoding: int) -> int:
        """Prompt tokens for a step in which so many sequences decode."""
        if self._target_seconds is None or num_decoding == 0:
            return self._most
        return int(self._budget)

    def observe(self, batch: Batch, seconds: float) -> None:
        """A step has taken so long."""
        if self._target_seconds is None:
            return
        prompts = [row.num_tokens for row in batch.rows if row.num_tokens - row.num_drafts > 1]
        num_decoding = len(batch.rows) - len(prompts)
        if not prompts:
            token_seconds = seconds / (self._overhead + batch.num_tokens)
            if self._token_seconds > 0:
                token_seconds = min(token_seconds, _MOST_TIMES * self._token_seconds)
            self._token_seconds += _WEIGHT * (token_seconds - self._token_seconds)
        # Steps of prompts alone, and those that were far from full, say nothing about the rest.
        if not prompts or num_decoding == 0 or 2 * sum(prompts) < self._budget:
            return
        decoding_alone = self._token_seconds * (self._overhead + num_decoding)
        target = max(self._target_seconds, 2 * decoding_alone)
        factor = min(max(target / max(seconds, 1e-9), _MOST_SHRINKING), _MOST_GROWING)
        self._budget = min(max(self._budget * factor, self._least), self._most)
