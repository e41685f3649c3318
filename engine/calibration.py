"""What a step costs on this machine, found by running a few that mean nothing.

Decides how scheduling begins: when guessing tokens pays, and how much of a prompt fits into a step
beside others. Outputs do not depend on it. Standard library only.
"""

from __future__ import annotations

import time
from dataclasses import replace

from engine.batch import Batch, RowStart, Runner, ScheduledRow
from engine.config import SchedulerConfig
from engine.request import SamplingParams

_NUM_ROWS = 16  # sequences that decode together
_NUM_TOKENS = 64  # of a prompt
_REPEATS = 4  # the quickest counts; the first one warms up
_MAX_OVERHEAD = 100.0


def calibrate(runner: Runner, config: SchedulerConfig) -> SchedulerConfig:
    """The configuration with `step_overhead`, `prompt_budget` and `token_seconds` measured.

    The runner's rows and pages must not be in use, and are void afterwards. Without a
    `target_step_seconds` nothing is measured.
    """
    target = config.target_step_seconds
    num_rows = min(_NUM_ROWS, config.max_num_seqs, config.num_blocks)
    num_tokens = min(_NUM_TOKENS, config.max_model_len, config.max_num_batched_tokens)
    if target is None or num_rows < 2 or num_tokens < 2:
        return config
    one = _seconds(runner, config, [1])
    several = _seconds(runner, config, [1] * num_rows)
    prompt = _seconds(runner, config, [num_tokens])
    # A line through two points: seconds = overhead + tokens * a token's own.
    token_seconds = max(several - one, 1e-6) / (num_rows - 1)
    overhead = max(one - token_seconds, 0.0)
    prompt_token_seconds = max(prompt - overhead, 1e-6) / num_tokens
    budget = int(max(target - one, 0.0) / prompt_token_seconds)
    return replace(
        config,
        step_overhead=min(overhead / token_seconds, _MAX_OVERHEAD),
        prompt_budget=max(budget, 1),
        token_seconds=token_seconds,
    )


def _seconds(runner: Runner, config: SchedulerConfig, lengths: list[int]) -> float:
    """How long a step of sequences with so many tokens takes."""
    times = []
    for _ in range(_REPEATS):
        batch = _batch(config, lengths)
        started = time.perf_counter()
        runner.launch(batch).wait()
        times.append(time.perf_counter() - started)
    return min(times)


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
