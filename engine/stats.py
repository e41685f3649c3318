"""The engine's counts: gauges at one moment, totals since the engine process started, and what
became of its processes. Standard library only; crosses the process boundary as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any

# Upper bounds, inclusive, of the number of tokens in a step: the buckets of vLLM's
# `iteration_tokens_total`.
STEP_TOKEN_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges first, then totals.

    `num_deferred` of the waiting choices wait for another sequence and not for room. Prompt tokens
    are counted when they arrive, and as `num_started_tokens` when their first step is planned; of
    those that were looked up in the prefix cache, `num_cached_tokens` were found. `step_tokens`
    counts steps by their number of tokens, for each of STEP_TOKEN_BOUNDS and for more;
    `num_step_tokens` is the sum. `num_drafts` tokens were guessed in `num_draft_rounds`, of which
    `num_right_drafts` were drawn; `right_by_position` counts these by their place in a round.
    `num_failed_steps` raised.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_deferred: int = 0
    num_blocks_used: int = 0
    num_blocks_cached: int = 0
    num_blocks_total: int = 0
    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_started_tokens: int = 0
    num_looked_up_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    step_tokens: tuple[int, ...] = (0,) * (len(STEP_TOKEN_BOUNDS) + 1)
    num_step_tokens: int = 0
    num_preemptions: int = 0
    num_drafts: int = 0
    num_draft_rounds: int = 0
    num_right_drafts: int = 0
    right_by_position: tuple[int, ...] = ()
    num_failed_steps: int = 0

    def after(self, before: EngineStats) -> EngineStats:
        """These gauges, with totals that go on from those of an earlier engine process."""
        totals: dict[str, Any] = {}
        for name in _TOTALS:
            was, now = getattr(before, name), getattr(self, name)
            if isinstance(now, tuple):
                totals[name] = tuple(a + b for a, b in zip_longest(was, now, fillvalue=0))
            else:
                totals[name] = was + now
        return replace(self, **totals)


_GAUGES = frozenset(
    ("num_running", "num_waiting", "num_deferred")
    + ("num_blocks_used", "num_blocks_cached", "num_blocks_total")
)
_TOTALS = tuple(field.name for field in fields(EngineStats) if field.name not in _GAUGES)


@dataclass(frozen=True, slots=True)
class EngineHistory:
    """Totals of what befell the engine's processes, as seen by the one that starts them.

    `num_deaths` of ready ones, unasked, after which `num_restarts` times another was ready;
    `num_failed_starts` were not. `num_hangs` were ended because they did nothing, while they loaded
    or later. `num_resubmitted` requests were handed to another process.
    """

    num_deaths: int = 0
    num_restarts: int = 0
    num_failed_starts: int = 0
    num_hangs: int = 0
    num_resubmitted: int = 0
