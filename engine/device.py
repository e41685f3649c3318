"""What the machine offers: device, number format, threads, memory. Resolves `EngineConfig`'s "auto"
values into a new object and the scheduler's limits; changes no global state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.checkpoint.model_config import ModelConfig
from engine.config import EngineConfig, SchedulerConfig
from engine.errors import EngineStartError
from engine.kv_cache import block_bytes
from engine.limits import available_cpus, available_memory
from engine.processor import cpu_flags

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# CPUs with these multiply bfloat16 faster than float32.
_FAST_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
# GPUs multiply bfloat16 from this compute capability on (Ampere); torch emulates it before.
_BFLOAT16_CAPABILITY = (8, 0)

# Kernels take in this many positions of a page at a time.
PAGE_MULTIPLE = 16

# A step that holds others up by a prompt should not be felt: well below a tenth of a second.
_CPU_STEP_SECONDS = 0.06

_CPU_KV_SHARE, _CPU_KV_LIMIT = 0.25, 4 << 30


@dataclass(frozen=True, slots=True)
class Target:
    """Where the engine computes, and in which numbers. `reason` says why, for the log."""

    device: torch.device
    dtype: torch.dtype
    num_threads: int
    reason: str

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def max_launches(self) -> int:
        """Steps under way at a time: on the CPU a launch does the work itself."""
        return 1 if self.device.type == "cpu" else 2


def resolve_target(
    config: EngineConfig, stays_quantized: Callable[[], bool] = lambda: False
) -> Target:
    """Choose device, dtype and threads. EngineStartError when what was asked for is not there.

    `stays_quantized` says whether the model's weights would be multiplied quantized on this CPU if
    what they are multiplied with is bfloat16; asked only where that decides.
    """
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise EngineStartError("device 'cuda' was asked for, but torch finds no CUDA device")
    if config.device == "auto":
        device, why = ("cuda", "a CUDA device is there") if has_cuda else ("cpu", "no CUDA device")
    else:
        device, why = config.device, "asked for"
    if config.dtype == "float16" and device == "cpu":
        raise EngineStartError(
            "dtype 'float16' needs a CUDA device; on the CPU, take bfloat16 or float32"
        )
    if config.dtype != "auto":
        dtype, dtype_why = _DTYPES[config.dtype], "asked for"
    elif device == "cuda" and torch.cuda.get_device_capability() < _BFLOAT16_CAPABILITY:
        dtype, dtype_why = torch.float16, "this GPU has no bfloat16"
    elif device == "cuda" or _FAST_BFLOAT16_FLAGS & cpu_flags():
        dtype, dtype_why = torch.bfloat16, "fast here"
    elif config.quantization in ("int8", "int4") or (
        config.quantization == "auto" and stays_quantized()
    ):
        dtype, dtype_why = torch.bfloat16, "for quantized weights"
    else:
        dtype, dtype_why = torch.float32, "this CPU has no fast bfloat16"
    name = str(dtype).removeprefix("torch.")
    return Target(
        device=torch.device(device),
        dtype=dtype,
        num_threads=config.num_threads or available_cpus(),
        reason=f"{device}: {why}; {name}: {dtype_why}",
    )


def free_memory(device: torch.device) -> tuple[int, str]:
    """Bytes that weights may take there, and what to call that memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0], "the GPU's memory"
    return available_memory(), "main memory"


def resolve_limits(config: EngineConfig, model: ModelConfig, target: Target) -> SchedulerConfig:
    """The scheduler's limits. EngineStartError when the wishes and the memory do not fit."""
    on_cpu = target.device.type == "cpu"
    if config.block_size < 1 or config.block_size % PAGE_MULTIPLE:
        raise EngineStartError(
            f"block_size {config.block_size} must be a multiple of {PAGE_MULTIPLE}: "
            "so many positions are computed at once"
        )
    memory = config.kv_cache_memory
    if memory is None:
        assert on_cpu, "on a GPU, what is left is measured"
        memory = min(int(available_memory() * _CPU_KV_SHARE), _CPU_KV_LIMIT)
    page = block_bytes(model, config.block_size, target.dtype)
    num_blocks = memory // page
    max_num_seqs = config.max_num_seqs or min(64 if on_cpu else 256, max(1, num_blocks))
    if num_blocks < max_num_seqs:
        raise EngineStartError(
            f"KV cache memory of {_mebibytes(memory)} holds {num_blocks} pages of "
            f"{config.block_size} tokens, fewer than the {max_num_seqs} running requests; "
            f"give it at least {_mebibytes(max_num_seqs * page)} or allow fewer requests"
        )
    return SchedulerConfig(
        num_blocks=num_blocks,
        block_size=config.block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or (512 if on_cpu else 8192),
        max_model_len=_max_model_len(config, model, num_blocks * config.block_size),
        enable_prefix_caching=config.enable_prefix_caching,
        max_drafts=_max_drafts(config, on_cpu),
        target_step_seconds=_CPU_STEP_SECONDS if on_cpu else None,
    )


def _max_drafts(config: EngineConfig, on_cpu: bool) -> int:
    if config.max_drafts is not None:
        return config.max_drafts
    return 8 if on_cpu else 0  # a GPU's next step is launched before this one's tokens are known


def _max_model_len(config: EngineConfig, model: ModelConfig, num_slots: int) -> int:
    wanted = config.max_model_len
    if wanted is None:
        return min(model.max_model_len, num_slots)
    if wanted > model.max_model_len:
        raise EngineStartError(
            f"max_model_len {wanted} is more than the model's {model.max_model_len} positions"
        )
    if wanted > num_slots:
        raise EngineStartError(
            f"max_model_len {wanted} does not fit the KV cache, which holds {num_slots} tokens: "
            f"{min(num_slots, model.max_model_len)} fit; lower it or raise the KV cache memory"
        )
    return wanted


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):.0f} MiB"
