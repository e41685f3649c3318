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
    """`layers[i]` is [num_blocks + 1, 2, kv_heads, block_size, head_dim]: keys at 0, values at 1.

    The last page, `blank_block`, always holds zeros: block tables are filled up with it.
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
        page = (2, config.num_kv_heads, block_size, config.head_dim)
        self._pages = _zeros((config.num_layers, num_blocks + 1, *page), device, dtype)
        self.layers: list[Tensor] = list(self._pages.unbind(0))

    def copy_blocks(self, copies: list[tuple[int, int]]) -> None:
        """Copy pages (source, destination), in all layers. No destination is also a source."""
        sources = torch.tensor([source for source, _ in copies], device=self._pages.device)
        destinations = torch.tensor([target for _, target in copies], device=self._pages.device)
        self._pages.index_copy_(1, destinations, self._pages.index_select(1, sources))

    def clear_blocks(self, block_ids: list[int]) -> None:
        """Fill pages with zeros: what an earlier owner left (a NaN at worst) must not be read."""
        self._pages.index_fill_(1, torch.tensor(block_ids, device=self._pages.device), 0)


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """What one page costs, over all layers."""
    per_token = 2 * config.num_kv_heads * config.head_dim * dtype.itemsize
    return config.num_layers * block_size * per_token


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    return large_memory(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
