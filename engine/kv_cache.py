"""The pages of keys and values, and how many of them fit.

Knows tensors and block ids; who owns a page is the scheduler's business.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.checkpoint.model_config import ModelConfig
from engine.memory import large_memory


class KVCache:
    """`layers[i]` is [num_blocks + 2, 2, kv_heads, block_size, head_dim]: keys at 0, values at 1.

    Two pages come after those that sequences own. `blank_block` always holds zeros: block tables
    are filled up with it. `scratch_block` takes what is computed for padding and is not read for
    anything else.
    On the CPU the memory is taken from the system page by page as it is first written.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.block_size = block_size
        self.blank_block = num_blocks
        self.scratch_block = num_blocks + 1
        page = (2, config.num_kv_heads, block_size, config.head_dim)
        self._pages = _zeros((config.num_layers, num_blocks + 2, *page), device, dtype)
        self.layers: list[Tensor] = list(self._pages.unbind(0))

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy pages (block ids, int64, on the device) in all layers. No target is a source."""
        self._pages.index_copy_(1, targets, self._pages.index_select(1, sources))

    def clear_blocks(self, block_ids: Tensor) -> None:
        """Fill pages with zeros: what an earlier owner left (a NaN at worst) must not be read."""
        self._pages.index_fill_(1, block_ids, 0)


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """What one page costs, over all layers."""
    per_token = 2 * config.num_kv_heads * config.head_dim * dtype.itemsize
    return config.num_layers * block_size * per_token


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    return large_memory(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
