"""Before the first request: steps that compile what requests will run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.attention import Span, StepLayout
from engine.batch import Batch, RowOutput
from engine.config import SchedulerConfig
from engine.warm_up import warm_up

LIMITS = SchedulerConfig(64, 16, max_num_seqs=8, max_num_batched_tokens=512, max_model_len=1024)


class Noted:
    """A runner that keeps the batches, and is its own handle."""

    max_launches = 2

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def launch(self, batch: Batch) -> Noted:
        self.batches.append(batch)
        return self

    def wait(self) -> list[RowOutput]:
        return []


def warmed_up(limits: SchedulerConfig) -> list[Batch]:
    runner = Noted()
    warm_up(runner, limits)
    return runner.batches


@pytest.mark.parametrize("num_processors", [16, 72, 132])
@pytest.mark.parametrize("heads", [(32, 8), (8, 8), (9, 3), (16, 1), (40, 8)], ids=str)
def test_every_kind_of_attention_is_compiled(heads: tuple[int, int], num_processors: int) -> None:
    """Few tokens and many, whole and split: each is a kernel of its own."""
    plan = pytest.importorskip("engine.kernels.triton.plan", exc_type=ImportError)
    kinds = set()
    for batch in warmed_up(LIMITS):
        spans = []
        for row in batch.rows:
            first_token = sum(span.num_tokens for span in spans)
            spans.append(Span(row.row, first_token, row.num_tokens, row.start))
        indices = torch.zeros(batch.num_tokens, dtype=torch.int64)
        tables = torch.zeros(8, 64, dtype=torch.int32)
        layout = StepLayout(spans, indices, indices, tables, 64, 16, *heads, head_dim=128)
        processors = plan.Processors(num_processors, shared_bytes=99 << 10)
        made = plan.make_plan(layout, torch.bfloat16, processors)
        kinds |= {(launch.shape, launch.num_splits > 1) for launch in made.launches}
        assert all(launch.tiles is not None for launch in made.launches), "those are recorded"
    shapes = plan.tile_shapes(layout, torch.bfloat16, 99 << 10)
    assert kinds == {(shape, is_split) for shape in shapes for is_split in (False, True)}


@pytest.mark.parametrize(
    ("limits", "num_rows"),
    [
        (LIMITS, [2, 2]),
        (replace(LIMITS, max_num_seqs=1), [1, 1]),
        (replace(LIMITS, max_model_len=119), [2]),
        (replace(LIMITS, max_num_batched_tokens=20), []),
        (replace(LIMITS, num_blocks=8, max_model_len=120), [2, 2]),
    ],
)
def test_limits_hold(limits: SchedulerConfig, num_rows: list[int]) -> None:
    batches = warmed_up(limits)
    assert [len(batch.rows) for batch in batches] == num_rows
    for batch in batches:
        assert [start.row for start in batch.starts] == [row.row for row in batch.rows]
        assert batch.num_tokens <= limits.max_num_batched_tokens
        for start, row in zip(batch.starts, batch.rows, strict=True):
            end = row.start + row.num_tokens
            assert row.row < limits.max_num_seqs and end <= limits.max_model_len
            assert len(start.token_ids) == start.num_prompt_tokens == end
            assert len(row.new_block_ids) * limits.block_size >= end
            assert max(row.new_block_ids) < limits.num_blocks
