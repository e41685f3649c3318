"""The engine's counts: gauges at one moment, and totals since the engine process started.

Standard library only; crosses the process boundary as it is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges first, then totals. Prompt tokens are counted when they arrive; of those that
    were looked up in the prefix cache, `num_cached_tokens` were found. `num_right_drafts` are those
    of the guessed tokens that were drawn."""

    num_running: int = 0
    num_waiting: int = 0
    num_blocks_used: int = 0
    num_blocks_cached: int = 0
    num_blocks_total: int = 0
    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_looked_up_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    num_preemptions: int = 0
    num_drafts: int = 0
    num_right_drafts: int = 0
