"""What stands for CUDA graphs where there is no GPU: kernels that plan from tensors alone, and a
recorder whose replays run the recorded step again, over the same buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.attention import AttentionPlan, Span, StepLayout
from engine.checkpoint import open_checkpoint
from engine.config import EngineConfig, SchedulerConfig
from engine.device import resolve_limits, resolve_target
from engine.info import EngineInfo
from engine.kernels.base import Kernels
from engine.kernels.reference import ReferenceKernels
from engine.models import build_model
from engine.runner import ModelRunner
from engine.weights import load_weights


class DeviceKernels(ReferenceKernels):
    """Finds the spans of a decode step in the tensors, whatever the list says."""

    @property
    def can_be_recorded(self) -> bool:
        return True

    def plan(self, layout: StepLayout) -> AttentionPlan:
        if all(span.num_tokens == 1 for span in layout.spans):
            where = zip(layout.rows.tolist(), layout.positions.tolist(), strict=True)
            spans = [Span(row, i, 1, position) for i, (row, position) in enumerate(where)]
            assert len(spans) == len(layout.spans)
            layout = replace(layout, spans=spans)
        return super().plan(layout)


class Rerun:
    """Stands for CUDA graphs; `sizes` counts the replays of each recording, in their order."""

    def __init__(self) -> None:
        self.replays: list[int] = []

    def record(self, operation: Callable[[], None]) -> Callable[[], None]:
        operation()
        number = len(self.replays)
        self.replays.append(0)

        def replay() -> None:
            self.replays[number] += 1
            operation()

        return replay


def replayable_runner(
    folder: Path, max_num_seqs: int, kernels: Kernels | None = None
) -> ModelRunner:
    """The model in `folder` on the CPU, with kernels for graphs: `DeviceKernels`, if not others."""
    config = EngineConfig(
        str(folder),
        device="cpu",
        dtype="float32",
        kv_cache_memory=1 << 20,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=512,
        max_model_len=128,
        max_drafts=0,
        num_threads=1,
    )
    target = resolve_target(config)
    checkpoint = open_checkpoint(folder)
    kernels = kernels or DeviceKernels(target.device, target.dtype)
    model = build_model(checkpoint.config, kernels, target.device)
    load_weights(model, checkpoint, target.device, target.dtype, lambda *_: None)
    limits = resolve_limits(config, checkpoint.config, target)
    info = EngineInfo("llama", 199, 0, 128, "cpu", "float32", "", 1, 16, 1, 1, 0.0)
    return ModelRunner(checkpoint.config, model, kernels, limits, target, info)


def with_limits(runner: ModelRunner, limits: SchedulerConfig) -> ModelRunner:
    """Another runner of the same model."""
    return ModelRunner(
        runner._config, runner._model, runner._kernels, limits, runner._target, runner.info
    )
