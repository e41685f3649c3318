"""How much of a GPU's memory is left for pages: the largest step is run once, and watched.

The step runs on scratch pages, with everything a request may ask for. What recorded steps take is
measured on a few and reckoned up. Numbers in, numbers out: the device itself is behind a Protocol.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from engine.batch import Batch, RowStart, ScheduledRow
from engine.config import SchedulerConfig
from engine.errors import EngineStartError
from engine.graphs import Recorder, RecordingRunner, decode_sizes
from engine.request import SamplingParams

# Recorded to see what one takes: the first, the largest, makes the memory that all share.
_NUM_MEASURED = 3

# Whatever takes memory, at once: a sort of the vocabulary, alternatives, tables of what occurred.
_EVERYTHING = SamplingParams(
    temperature=1.0, top_p=0.9, repetition_penalty=1.1, frequency_penalty=0.1, logprobs=20
)


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of a device: `total`, and `free` when only the weights are there (others' use is not
    free, nor what libraries keep after a step); what the largest step takes besides weights and
    pages; what recorded steps take."""

    total: int
    free: int
    step: int
    graphs: int


def page_memory(use: MemoryUse, utilization: float) -> int:
    """Bytes for pages, so that `utilization` of the device is in use and no more.

    Raises EngineStartError when that is nothing.
    """
    budget = int(use.total * utilization) - (use.total - use.free) - use.step - use.graphs
    if budget <= 0:
        raise EngineStartError(
            f"of {_gibibytes(use.total)} GPU memory, {utilization:.0%} may be used, but weights "
            f"and other programs take {_gibibytes(use.total - use.free)} and a step "
            f"{_gibibytes(use.step + use.graphs)}: no room for pages; raise "
            "--gpu-memory-utilization, lower --max-num-batched-tokens or --max-num-seqs, or take "
            "a smaller model"
        )
    return budget


class DeviceMemory(Protocol):
    """What a device says of its memory, in bytes."""

    def free(self) -> int:
        """Free now, with everything given back that is not in use."""

    def total(self) -> int:
        """All there is."""

    def watch(self) -> None:
        """Peaks count from now on."""

    def peak(self) -> int:
        """The most that was in use since `watch`, above what was in use then."""


class CudaMemory:
    """Implements `DeviceMemory` by torch's allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0

    def free(self) -> int:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self._device)[0])

    def total(self) -> int:
        return int(torch.cuda.mem_get_info(self._device)[1])

    def watch(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - self._before


def measure(
    new_runner: Callable[[SchedulerConfig], RecordingRunner],
    limits: SchedulerConfig,
    memory: DeviceMemory,
    recorder: Recorder,
) -> MemoryUse:
    """What a runner with these limits takes, with its decode steps recorded if it can do that.

    Only the runner made here uses the device meanwhile, and it is gone afterwards.
    """
    free, total = memory.free(), memory.total()
    scratch = scratch_limits(limits)
    try:
        runner = new_runner(scratch)
        memory.watch()
        runner.launch(largest_batch(scratch)).wait()
        step = memory.peak()
        metered = _MeteredRecorder(recorder, memory)
        sizes = decode_sizes(limits.max_num_seqs) if runner.can_record else []
        if sizes:
            runner.record_decoding(metered, sizes[-_NUM_MEASURED:])
        del runner
        gc.collect()  # recordings refer to their runner
        # What libraries have taken by now, such as for their code, they keep.
        free = min(free, memory.free())
    except torch.OutOfMemoryError:
        raise EngineStartError(
            f"the GPU has {_gibibytes(free)} left beside the weights, too little for a step of "
            f"{limits.max_num_batched_tokens} tokens; lower --max-num-batched-tokens or "
            "--max-num-seqs, or take a smaller model"
        ) from None
    return MemoryUse(total, free, step, metered.reckon(len(sizes)))


def scratch_limits(limits: SchedulerConfig) -> SchedulerConfig:
    """The same, with pages for one step only."""
    num_rows = min(limits.max_num_seqs, limits.max_num_batched_tokens)
    num_blocks = limits.max_num_batched_tokens // limits.block_size + num_rows
    max_model_len = min(limits.max_model_len, num_blocks * limits.block_size)
    return replace(limits, num_blocks=num_blocks, max_model_len=max_model_len)


def largest_batch(limits: SchedulerConfig) -> Batch:
    """As many rows as can run, with as many tokens as fit into a step, each asking for
    everything."""
    batch = Batch()
    next_block, left = 0, limits.max_num_batched_tokens
    num_rows = min(limits.max_num_seqs, left)
    for row in range(num_rows):
        length = min(-(-left // (num_rows - row)), limits.max_model_len)
        left -= length
        block_ids = list(range(next_block, next_block + -(-length // limits.block_size)))
        next_block += len(block_ids)
        token_ids = [0] * length
        batch.starts.append(RowStart(row, 0, _EVERYTHING, token_ids, num_prompt_tokens=length))
        batch.rows.append(ScheduledRow(row, 0, length, token_ids, 0, block_ids, sample=True))
    return batch


class _MeteredRecorder:
    """Notes what each recording takes."""

    def __init__(self, recorder: Recorder, memory: DeviceMemory) -> None:
        self._recorder = recorder
        self._memory = memory
        self._taken: list[int] = []

    def record(self, operation: Callable[[], None]) -> Callable[[], None]:
        before = self._memory.free()
        replay = self._recorder.record(operation)
        self._taken.append(max(before - self._memory.free(), 0))
        return replay

    def reckon(self, num_recordings: int) -> int:
        """So many: the first as measured, all others as the dearer ones of the rest."""
        if not self._taken:
            return 0
        return self._taken[0] + (num_recordings - 1) * max(self._taken[1:], default=0)


def _gibibytes(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"
