"""What the engine is, once it is up. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The engine as it came up: what the banner, `/v1/models` and admission need to know."""

    architecture: str
    vocab_size: int
    num_parameters: int
    max_model_len: int
    device: str
    dtype: str
    kernels: str
    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    load_seconds: float
