"""What a step costs on this machine, found by running a few that mean nothing.

Decides how scheduling begins: when guessing tokens pays, and how much of a prompt fits into a step
beside others. Outputs do not depend on it. Standard library only.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

from engine.batch import Batch, RowStart, Runner, ScheduledRow
from engine.config import SchedulerConfig
from engine.request import SamplingParams

_NUM_ROWS = 16  # sequences that decode together
_NUM_TOKENS = 64  # of a prompt
# Each kind of step once a round. Few rounds are made where steps take long: somebody waits.
_MOST_ROUNDS, _LEAST_ROUNDS, _ENOUGH_SECONDS = 7, 3, 2.0
_MAX_OVERHEAD = 100.0


def calibrate(runner: Runner, config: SchedulerConfig) -> SchedulerConfig:
    """The configuration with `step_overhead`, `prompt_budget` and `token_seconds` measured.

    The runner's rows and pages must not be in use, and are void afterwards. Without a
    `target_step_seconds` nothing is measured. Where steps of several sequences take less time than
    of one, or more than one after the other, `step_overhead` is left as it is.
    """
    target = config.target_step_seconds
    num_rows = min(_NUM_ROWS, config.max_num_seqs, config.num_blocks)
    num_tokens = min(_NUM_TOKENS, config.max_model_len, config.max_num_batched_tokens)
    if target is None or num_rows < 2 or num_tokens < 2:
        return config
    rounds = _rounds(runner, config, [[1], [1] * num_rows, [num_tokens]])
    # Others may use the machine too. Times of one round were hit alike, so the middle of their
    # proportions says more than the best time of each kind.
    one = median(one for one, _, _ in rounds)
    several = median(several / one for one, several, _ in rounds) * one
    prompt = median(prompt / one for one, _, prompt in rounds) * one
    # A line through two points: seconds = overhead + tokens * a token's own.
    token_seconds = (several - one) / (num_rows - 1)
    if not 0 < token_seconds < one:
        token_seconds = one / (config.step_overhead + 1)
    overhead = one - token_seconds
    prompt_token_seconds = (max(prompt, one) - overhead) / num_tokens
    # As `Pacer` has it, with somebody decoding.
    budget = (max(target, 2 * one) - one) / prompt_token_seconds
    return replace(
        config,
        step_overhead=min(overhead / token_seconds, _MAX_OVERHEAD),
        prompt_budget=min(max(int(budget), 1), config.max_num_batched_tokens),
        token_seconds=token_seconds,
    )


def _rounds(
    runner: Runner, config: SchedulerConfig, kinds: list[list[int]]
) -> list[tuple[float, ...]]:
    """How long steps of sequences with so many tokens take, side by side."""
    started = time.perf_counter()
    rounds: list[tuple[float, ...]] = []
    while len(rounds) < _MOST_ROUNDS and (
        len(rounds) < _LEAST_ROUNDS or time.perf_counter() - started < _ENOUGH_SECONDS
    ):
        rounds.append(tuple(_seconds(runner, _batch(config, lengths)) for lengths in kinds))
    return rounds


def _seconds(runner: Runner, batch: Batch) -> float:
    started = time.perf_counter()
    runner.launch(batch).wait()
    return max(time.perf_counter() - started, 1e-6)


def _batch(config: SchedulerConfig, lengths: list[int]) -> Batch:
    batch = Batch()
    next_block = 0
    for row, length in enumerate(lengths):
        num_blocks = -(-length // config.block_size)
        block_ids = list(range(next_block, next_block + num_blocks))
        next_block += num_blocks
        token_ids = [0] * length
        sampling = SamplingParams(temperature=0.0)
        batch.starts.append(RowStart(row, 0, sampling, token_ids, num_prompt_tokens=length))
        batch.rows.append(ScheduledRow(row, 0, length, token_ids, 0, block_ids, sample=True))
    return batch
