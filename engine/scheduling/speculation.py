"""Which sequences get guesses to compute in a step, and what became of them.

A guess costs a token's computation and saves a step when it is right, so it is worth most where
few sequences run: steps have an overhead that does not grow with their tokens. Standard library
only.
"""

from __future__ import annotations

from itertools import accumulate

from engine.batch import RowOutput, ScheduledRow
from engine.config import SchedulerConfig
from engine.scheduling.block_pool import BlockPool
from engine.scheduling.sequence import Sequence

# Guesses are hardly ever right with a greater chance than this: no need to look for any.
_MAX_CHANCE = 0.95


class Speculation:
    """Plans guesses; `num_drafts` and `num_right` count them, `num_rounds` how often a sequence got
    some, and `rounds_by_right` how many of these came to so many right ones."""

    def __init__(self, config: SchedulerConfig, pool: BlockPool) -> None:
        self._config = config
        self._pool = pool
        self.num_drafts = 0
        self.num_right = 0
        self.num_rounds = 0
        self.rounds_by_right = [0] * (config.max_drafts + 1)

    @property
    def right_by_position(self) -> tuple[int, ...]:
        """How often the first guess of a round was right, the second, ..."""
        return tuple(accumulate(reversed(self.rounds_by_right[1:])))[::-1]

    def plan(self, counts: dict[Sequence, int], num_running: int) -> dict[Sequence, list[int]]:
        """Guesses for sequences of the step that decode, as far as they are likely to pay.

        Takes pages for them, but none that one of the `num_running` sequences may need. Beside
        prompts there are half as many guesses as prompt tokens: somebody waits for these.
        """
        drafts: dict[Sequence, list[int]] = {}
        num_tokens = sum(counts.values())
        # The share of a step's cost that one more token is: less likely guesses cost more.
        min_chance = num_tokens / (num_tokens + self._config.step_overhead)
        if self._config.max_drafts == 0 or min_chance > _MAX_CHANCE:
            return drafts
        left = self._config.max_num_batched_tokens - num_tokens
        num_prompt = sum(count for count in counts.values() if count > 1)
        left = min(left, num_prompt // 2) if num_prompt else left
        for sequence, count in counts.items():
            if count == 1 and sequence.allows_drafts and self._decodes(sequence):
                room = min(self._room(sequence), left)
                guesses = sequence.draft(room, min_chance) if room > 0 else []
                guesses = guesses[: self._take_pages(sequence, len(guesses), num_running)]
                if guesses:
                    drafts[sequence] = guesses
                    left -= len(guesses)
        self.num_drafts += sum(map(len, drafts.values()))
        self.num_rounds += len(drafts)
        return drafts

    def settle(self, sequence: Sequence, row: ScheduledRow, output: RowOutput) -> None:
        """What was computed after the first wrong guess is void. Call before the next plan."""
        if row.num_drafts and output.token_ids:
            sequence.num_computed_tokens = row.start + len(output.token_ids)
            num_right = len(output.token_ids) - 1
            self.num_right += num_right
            self.rounds_by_right[num_right] += 1

    def _decodes(self, sequence: Sequence) -> bool:
        """Whether all its tokens are known and only the last one, a drawn one, is not computed."""
        known = sequence.num_known_tokens
        return known == sequence.num_tokens > sequence.num_prompt_tokens and (
            sequence.num_computed_tokens == known - 1
        )

    def _room(self, sequence: Sequence) -> int:
        """How many guesses could still be of use."""
        return min(
            self._config.max_drafts,
            self._config.max_model_len - sequence.num_known_tokens - 1,
            sequence.sampling.max_tokens - len(sequence.output_token_ids) - 1,
        )

    def _take_pages(self, sequence: Sequence, num_drafts: int, num_running: int) -> int:
        """Take a page for guesses if there are plenty; how many guesses the pages have room for."""
        block_size = self._config.block_size
        end = sequence.num_known_tokens + num_drafts
        num_missing = -(-end // block_size) - len(sequence.block_ids)
        if 0 < num_missing <= self._pool.num_available - num_running:
            sequence.block_ids.extend(self._pool.allocate(num_missing) or ())
        return len(sequence.block_ids) * block_size - sequence.num_known_tokens
