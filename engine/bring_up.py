"""What comes between the weights and the first step on a GPU: pages that fill its memory,
kernels compiled, and decode steps recorded.

Knows no CUDA; how a device measures and records is given to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from engine.checkpoint.model_config import ModelConfig
from engine.config import EngineConfig, SchedulerConfig
from engine.device import Target, resolve_limits
from engine.graphs import Recorder, RecordingRunner, decode_sizes
from engine.memory_profile import DeviceMemory, measure, page_memory
from engine.warm_up import warm_up

logger = logging.getLogger("octavo.engine")

# More than there is: the limits that come of it are those that memory does not set.
_ANY_MEMORY = 1 << 50


AnyRunner = TypeVar("AnyRunner", bound=RecordingRunner)


def bring_up(
    new_runner: Callable[[SchedulerConfig], AnyRunner],
    config: EngineConfig,
    model: ModelConfig,
    target: Target,
    memory: DeviceMemory,
    new_recorder: Callable[[], Recorder],
    on_progress: Callable[[str, float], None],
) -> AnyRunner:
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
    on_progress("compiling kernels", 0.0)
    warm_up(runner, limits)
    if runner.can_record:
        on_progress("recording steps", 0.0)
        runner.record_decoding(new_recorder(), decode_sizes(limits.max_num_seqs))
    return runner
