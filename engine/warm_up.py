"""The first steps of an engine on a GPU, which mean nothing: each kind of step has its own kernels,
and compiling them takes seconds, which no request should have to wait for. Standard library only.
"""

from __future__ import annotations

from engine.batch import Batch, RowStart, Runner, ScheduledRow
from engine.config import SchedulerConfig
from engine.request import SamplingParams

# Rows of steps, (start, number of tokens): one token beside many, on a context that is read at once
# and on one that is worth to be split. Steps of single tokens are compiled as they are recorded.
_STEPS = (((0, 1), (0, 20)), ((100, 1), (100, 20)))


def warm_up(runner: Runner, config: SchedulerConfig) -> None:
    """Run steps that are not recorded. Rows and pages must not be in use, and are void afterwards.

    Limits too small for one leave it out.
    """
    for spans in _STEPS:
        batch = _batch(config, spans[-config.max_num_seqs :])
        if batch.num_tokens <= config.max_num_batched_tokens and all(
            row.start + row.num_tokens <= config.max_model_len for row in batch.rows
        ):
            runner.launch(batch).wait()


def _batch(config: SchedulerConfig, spans: tuple[tuple[int, int], ...]) -> Batch:
    """All rows on the same pages: what they compute is void."""
    batch = Batch()
    for row, (start, num_tokens) in enumerate(spans):
        num_known = start + num_tokens
        block_ids = list(range(-(-num_known // config.block_size)))
        sampling = SamplingParams(temperature=0.0)
        batch.starts.append(RowStart(row, 0, sampling, [0] * num_known, num_known))
        batch.rows.append(
            ScheduledRow(row, start, num_tokens, [0] * num_tokens, 0, block_ids, sample=True)
        )
    return batch
