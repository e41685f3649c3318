"""How many tokens of each running sequence a step computes.

A step may be restricted, to fewer tokens or to some requests, while a failure is looked into.
Standard library only.
"""

from __future__ import annotations

from engine.config import SchedulerConfig
from engine.scheduling.pacing import Pacer
from engine.scheduling.sequence import Sequence


class StepBudget:
    """`allowed` are the requests that may be computed, None for all; `max_tokens` is the largest
    step, None for the configured one."""

    def __init__(self, config: SchedulerConfig, pacer: Pacer) -> None:
        self._config = config
        self._pacer = pacer
        self.allowed: frozenset[str] | None = None
        self.max_tokens: int | None = None

    @property
    def is_restricted(self) -> bool:
        return self.allowed is not None or self.max_tokens is not None

    def allows(self, sequence: Sequence) -> bool:
        return self.allowed is None or sequence.request.request_id in self.allowed

    def share(self, running: list[Sequence]) -> tuple[dict[Sequence, int], int]:
        """Tokens for each running sequence, and how many are left for others: single ones before
        long ones, then in order."""
        budget = self.max_tokens or self._config.max_num_batched_tokens
        ready = [s for s in running if self.allows(s) and self._can_advance(s)]
        single = [sequence for sequence in ready if sequence.num_uncomputed_tokens == 1]
        counts = dict.fromkeys(single[:budget], 1)
        budget = min(budget - len(counts), self._pacer.prompt_budget(len(counts)))
        for sequence in ready:
            if budget > 0 and sequence not in counts:
                counts[sequence] = min(sequence.num_uncomputed_tokens, budget)
                budget -= counts[sequence]
        return counts, budget

    def _can_advance(self, sequence: Sequence) -> bool:
        """Whether it needs another token computed, as far as can be known before late results."""
        num_outputs = len(sequence.output_token_ids) + sequence.num_pending_tokens
        is_full = (
            num_outputs >= sequence.sampling.max_tokens
            or sequence.num_tokens >= self._config.max_model_len
        )
        prompt_is_computed = sequence.num_computed_tokens >= sequence.num_prompt_tokens
        return sequence.num_uncomputed_tokens > 0 and not (is_full and prompt_is_computed)
