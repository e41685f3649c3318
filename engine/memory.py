"""Main memory straight from the system, for what is large and read from end to end."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor


def large_memory(num_bytes: int) -> Tensor:
    """Zeros, uint8 [num_bytes], in huge pages where there are some.

    Not committed before it is written.
    """
    # Private, because shared memory (mmap's default) gets no huge pages on most systems.
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
