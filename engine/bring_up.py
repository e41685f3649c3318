"""What comes between the weights and the first step on a GPU: pages that fill its memory, and
decode steps recorded over them.

Knows no CUDA; how a device measures and records is given to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from engine.batch import Runner
from engine.checkpoint.model_config import ModelConfig
from engine.config import EngineConfig, SchedulerConfig
from engine.device import Target, resolve_limits
from engine.graphs import Recorder, decode_sizes
from engine.memory_profile import DeviceMemory, measure, page_memory

logger = logging.getLogger("octavo.engine")

# More than there is: the limits that come of it are those that memory does not set.
_ANY_MEMORY = 1 << 50


class GpuRunner(Runner, Protocol):
    """A runner whose decode steps may be recorded."""

    @property
    def can_record(self) -> bool:
        """Whether its kernels can be recorded."""

    def record_decoding(self, recorder: Recorder, sizes: list[int]) -> None:
        """See `ModelRunner.record_decoding`."""


AnyGpuRunner = TypeVar("AnyGpuRunner", bound=GpuRunner)


def bring_up(
    new_runner: Callable[[SchedulerConfig], AnyGpuRunner],
    config: EngineConfig,
    model: ModelConfig,
    target: Target,
    memory: DeviceMemory,
    new_recorder: Callable[[], Recorder],
    on_progress: Callable[[str, float], None],
) -> AnyGpuRunner:
    """The runner to serve with. Raises EngineStartError where the memory is too small."""
    if config.kv_cache_memory is None:
        on_progress("measuring memory", 0.0)
        limits = resolve_limits(replace(config, kv_cache_memory=_ANY_MEMORY), model, target)
        use = measure(new_runner, limits, memory, new_recorder())
        room = page_memory(use, config.gpu_memory_utilization)
        logger.info("%s; %d MiB for pages", use, room >> 20)
        config = replace(config, kv_cache_memory=room)
    limits = resolve_limits(config, model, target)
    runner = new_runner(limits)
    if runner.can_record:
        on_progress("recording steps", 0.0)
        runner.record_decoding(new_recorder(), decode_sizes(limits.max_num_seqs))
    return runner
