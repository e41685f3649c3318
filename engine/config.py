"""What the engine is asked to be, and what the scheduler is told it is. Frozen; "auto" values are
resolved into new objects, never written back. Standard library only; knows no defaults but its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LoadFormat = Literal["auto", "dummy"]
# "auto" keeps what the file has where the device can compute with it; "none" computes in `dtype`.
Quantization = Literal["auto", "none", "int8", "int4"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine as asked for, before it is known what the machine and the model can do.

    `None` and "auto" mean: let the engine choose. Memory is in bytes; without `kv_cache_memory`, a
    GPU's is filled up to the share `gpu_memory_utilization`. What the engine compiles for this
    machine is kept in `cache_dir`. An engine that finishes no step for `engine_timeout`
    seconds is taken to hang: far more than a step of a model of some billion parameters needs on a
    few busy cores, and as long as clients and proxies may bear silence.
    """

    model_path: str
    device: Device = "auto"
    dtype: Dtype = "auto"
    load_format: LoadFormat = "auto"
    quantization: Quantization = "auto"
    block_size: int = 16
    kv_cache_memory: int | None = None
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    enable_prefix_caching: bool = True
    num_threads: int | None = None
    max_drafts: int | None = None
    cache_dir: str | None = None
    engine_timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The resolved limits that scheduling policy works with.

    `max_drafts` tokens of a sequence are guessed at most, none with 0. `step_overhead` is what a
    step costs besides its tokens, as a number of tokens: the more of it, the more guessing pays.
    Steps in which somebody decodes are to take `target_step_seconds`, if that is given; they take
    in `prompt_budget` tokens of prompts at first, None for any number. `token_seconds` is what a
    token of a sequence that decodes costs at first.
    """

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    enable_prefix_caching: bool = True
    max_drafts: int = 0
    step_overhead: float = 6.0
    target_step_seconds: float | None = None
    prompt_budget: int | None = None
    token_seconds: float = 0.0
