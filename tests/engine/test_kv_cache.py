"""Pages: their size, copying and clearing over all layers."""

from __future__ import annotations

import torch

from engine.checkpoint import ModelConfig
from engine.kv_cache import KVCache, block_bytes

CONFIG = ModelConfig("llama", 100, 64, 128, 3, 4, 2, 16, 512, 1e-5, 1e4)
CPU = torch.device("cpu")


def filled(dtype: torch.dtype) -> tuple[KVCache, list[torch.Tensor]]:
    cache = KVCache(CONFIG, 6, 8, CPU, dtype)
    for layer in cache.layers:
        layer[:6].normal_()
    return cache, [layer.clone() for layer in cache.layers]


def test_shape_and_zeros() -> None:
    cache = KVCache(CONFIG, 6, 8, CPU, torch.bfloat16)
    assert len(cache.layers) == 3
    for layer in cache.layers:
        assert layer.shape == (8, 2, 2, 8, 16) and layer.dtype == torch.bfloat16
        assert not layer.any()
    assert cache.layers[0][:6].nbytes * 3 == 6 * block_bytes(CONFIG, 8, torch.bfloat16)


def test_copy_blocks() -> None:
    cache, before = filled(torch.float32)
    cache.copy_blocks(torch.tensor([0, 0, 2]), torch.tensor([4, 5, 1]))
    for layer, old in zip(cache.layers, before, strict=True):
        assert torch.equal(layer, old[[0, 2, 2, 3, 0, 0, 6, 7]])


def test_clear_blocks() -> None:
    cache, before = filled(torch.float32)
    cache.layers[1][3] = torch.nan
    cache.clear_blocks(torch.tensor([3, 5]))
    for layer, old in zip(cache.layers, before, strict=True):
        assert not layer[[3, 5]].any()
        assert torch.equal(layer[[0, 1, 2, 4]], old[[0, 1, 2, 4]])
