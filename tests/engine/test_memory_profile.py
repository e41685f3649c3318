"""What is left for pages, from numbers; the largest step, run by a real runner on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from replayed_steps import Rerun, replayable_runner, with_limits
from tiny_models import save_tiny_model

from engine.batch import Batch, RowStart, ScheduledRow
from engine.bring_up import bring_up
from engine.config import EngineConfig, SchedulerConfig
from engine.errors import EngineStartError
from engine.kv_cache import block_bytes
from engine.memory_profile import (
    MemoryUse,
    largest_batch,
    measure,
    page_memory,
    scratch_limits,
)
from engine.request import SamplingParams
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

    def __init__(self, frees: list[int], peak: int, total: int = 1000) -> None:
        self._frees = iter(frees)
        self._peak = peak
        self._total = total
        self.is_watched = False

    def free(self) -> int:
        return next(self._frees)

    def total(self) -> int:
        return self._total

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
    memory = ScriptedMemory([800, 700, 660, 660, 655, 655, 652, 770], peak=90)
    limits = runner.scheduler_config
    asked: list[SchedulerConfig] = []

    def new_runner(scratch: SchedulerConfig) -> ModelRunner:
        asked.append(scratch)
        return runner

    use = measure(new_runner, limits, memory, recorder)
    assert asked == [scratch_limits(limits)]
    assert len(recorder.replays) == 3
    # Of the 800 that were free, 30 have gone to what is still there when the runner is not.
    assert use == MemoryUse(total=1000, free=770, step=90, graphs=40 + 5 * 5)


def test_nothing_is_recorded_where_kernels_cannot(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Rerun()
    monkeypatch.setattr(ModelRunner, "can_record", False)
    memory = ScriptedMemory([800, 810], peak=90)
    use = measure(lambda _: runner, runner.scheduler_config, memory, recorder)
    assert use.free == 800, "what another program gave back may be gone again"
    assert use.graphs == 0 and not recorder.replays


def test_a_step_that_does_not_fit(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(batch: Batch) -> StepHandle:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runner, "launch", launch)
    memory = ScriptedMemory([5 * GIB], peak=0)
    with pytest.raises(EngineStartError, match="5.0 GiB left .* 512 tokens; lower"):
        measure(lambda _: runner, runner.scheduler_config, memory, Rerun())


def test_a_gpu_is_filled_up_and_its_steps_recorded(tmp_path: Path) -> None:
    """The whole way, with a made-up memory of as many pages as are left at last."""
    save_tiny_model("llama", tmp_path)
    model = replayable_runner(tmp_path, 20)
    page = block_bytes(model._config, 16, torch.float32)
    config = EngineConfig(
        str(tmp_path), max_num_seqs=4, max_num_batched_tokens=32, gpu_memory_utilization=0.5
    )
    frees = [900 * page, 60, 60, 60, 60, 60, 60, 900 * page]
    memory = ScriptedMemory(frees, 30 * page, total=1000 * page)
    recorders: list[Rerun] = []
    asked: list[SchedulerConfig] = []
    phases: list[str] = []

    def new_runner(limits: SchedulerConfig) -> ModelRunner:
        asked.append(limits)
        return with_limits(model, limits)

    def new_recorder() -> Rerun:
        recorders.append(Rerun())
        return recorders[-1]

    runner = bring_up(
        new_runner,
        config,
        model._config,
        model._target,
        memory,
        new_recorder,
        lambda phase, fraction: phases.append(phase),
    )
    assert phases == ["measuring memory", "compiling kernels", "recording steps"]
    assert [limits.num_blocks for limits in asked] == [2 + 4, 500 - 100 - 30]
    assert [len(recorder.replays) for recorder in recorders] == [3, 3]  # 1, 2 and 4 rows
    row = ScheduledRow(3, 0, 3, [1, 2, 3], 0, [369], True)
    starts = [RowStart(3, 0, SamplingParams(temperature=0.0), [1, 2, 3], 3)]
    [output] = runner.launch(Batch(starts, [], [row])).wait()
    again = ScheduledRow(3, 3, 1, output.token_ids, 1, [], True)
    assert len(runner.launch(Batch([], [], [again])).wait()[0].token_ids) == 1
    assert recorders[1].replays == [0, 0, 1]


def test_pages_as_asked_for_are_not_measured(tmp_path: Path) -> None:
    save_tiny_model("llama", tmp_path)
    model = replayable_runner(tmp_path, 20)
    config = EngineConfig(str(tmp_path), max_num_seqs=2, kv_cache_memory=1 << 20)
    runner = bring_up(
        lambda limits: with_limits(model, limits),
        config,
        model._config,
        model._target,
        ScriptedMemory([], peak=0),
        Rerun,
        lambda phase, fraction: None,
    )
    page = block_bytes(model._config, 16, torch.float32)
    assert runner.scheduler_config.num_blocks == (1 << 20) // page
