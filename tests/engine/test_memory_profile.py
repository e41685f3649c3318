"""What is left for pages, from numbers; the largest step, run by a real runner on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from replayed_steps import Rerun, replayable_runner
from tiny_models import save_tiny_model

from engine.batch import Batch
from engine.config import SchedulerConfig
from engine.errors import EngineStartError
from engine.memory_profile import (
    MemoryUse,
    largest_batch,
    measure,
    page_memory,
    scratch_limits,
)
from engine.runner import ModelRunner, StepHandle

GIB = 1 << 30
LIMITS = SchedulerConfig(4096, 16, max_num_seqs=20, max_num_batched_tokens=300, max_model_len=128)


def test_what_is_left_goes_to_pages() -> None:
    use = MemoryUse(total=100 * GIB, free=70 * GIB, step=5 * GIB, graphs=2 * GIB)
    assert page_memory(use, 0.9) == (90 - 30 - 5 - 2) * GIB
    assert page_memory(use, 0.5) == 13 * GIB


def test_nothing_is_left() -> None:
    use = MemoryUse(total=24 * GIB, free=8 * GIB, step=5 * GIB, graphs=GIB)
    with pytest.raises(EngineStartError) as caught:
        page_memory(use, 0.9)
    message = str(caught.value)
    assert "24.0 GiB" in message and "90%" in message
    assert "16.0 GiB" in message and "6.0 GiB" in message
    assert "--gpu-memory-utilization" in message and "\n" not in message


@pytest.mark.parametrize(
    "limits",
    [
        LIMITS,
        replace(LIMITS, max_num_seqs=1),
        replace(LIMITS, max_num_seqs=7, max_num_batched_tokens=5),
        replace(LIMITS, max_num_seqs=256, max_num_batched_tokens=8192, max_model_len=4096),
    ],
)
def test_the_largest_batch_keeps_to_the_limits(limits: SchedulerConfig) -> None:
    scratch = scratch_limits(limits)
    batch = largest_batch(scratch)
    num_rows = min(limits.max_num_seqs, limits.max_num_batched_tokens)
    assert len(batch.rows) == num_rows
    assert batch.num_tokens == min(limits.max_num_batched_tokens, num_rows * scratch.max_model_len)
    assert all(0 < row.num_tokens <= scratch.max_model_len for row in batch.rows)
    block_ids = [block_id for row in batch.rows for block_id in row.new_block_ids]
    assert len(set(block_ids)) == len(block_ids) and max(block_ids) < scratch.num_blocks
    for row in batch.rows:
        assert len(row.new_block_ids) * limits.block_size >= row.num_tokens


class ScriptedMemory:
    """`free` gives the next of `frees`; the peak is of what was watched."""

    def __init__(self, frees: list[int], peak: int) -> None:
        self._frees = iter(frees)
        self._peak = peak
        self.is_watched = False

    def free(self) -> int:
        return next(self._frees)

    def total(self) -> int:
        return 1000

    def watch(self) -> None:
        self.is_watched = True

    def peak(self) -> int:
        assert self.is_watched
        return self._peak


@pytest.fixture
def runner(tmp_path: Path) -> ModelRunner:
    save_tiny_model("llama", tmp_path)
    return replayable_runner(tmp_path, 20)


def test_one_step_and_three_recordings_are_measured(runner: ModelRunner) -> None:
    recorder = Rerun()
    memory = ScriptedMemory([800, 700, 660, 660, 655, 655, 652], peak=90)
    limits = runner.scheduler_config
    asked: list[SchedulerConfig] = []

    def new_runner(scratch: SchedulerConfig) -> ModelRunner:
        asked.append(scratch)
        return runner

    use = measure(new_runner, limits, memory, recorder, [1, 2, 4, 8, 16, 20])
    assert asked == [scratch_limits(limits)]
    assert len(recorder.replays) == 3
    assert use == MemoryUse(total=1000, free=800, step=90, graphs=40 + 5 * 5)


def test_nothing_is_recorded_where_kernels_cannot(runner: ModelRunner) -> None:
    recorder = Rerun()
    memory = ScriptedMemory([800], peak=90)
    use = measure(lambda _: runner, runner.scheduler_config, memory, recorder, [])
    assert use.graphs == 0 and not recorder.replays


def test_a_step_that_does_not_fit(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(batch: Batch) -> StepHandle:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runner, "launch", launch)
    memory = ScriptedMemory([5 * GIB], peak=0)
    with pytest.raises(EngineStartError, match="5.0 GiB left .* 512 tokens; lower"):
        measure(lambda _: runner, runner.scheduler_config, memory, Rerun(), [])
