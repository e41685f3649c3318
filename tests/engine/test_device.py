"""What "auto" becomes, and the wishes that cannot be met."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from engine.checkpoint import ModelConfig
from engine.config import EngineConfig, Quantization
from engine.device import Target, resolve_limits, resolve_target
from engine.errors import EngineStartError
from engine.limits import available_cpus, available_memory

MODEL = ModelConfig("llama", 100, 64, 128, 2, 4, 2, 16, 512, 1e-5, 1e4)
PAGE = 2 * 2 * 16 * 2 * 16 * 4  # keys and values, heads, head_dim, layers, tokens, float32
TARGET = Target(torch.device("cpu"), torch.float32, 1, "asked for")
CONFIG = EngineConfig("unused", kv_cache_memory=100 * PAGE)


def test_target_as_asked_for() -> None:
    target = resolve_target(EngineConfig("m", device="cpu", dtype="bfloat16", num_threads=3))
    assert (target.device.type, target.dtype_name, target.num_threads) == ("cpu", "bfloat16", 3)


def test_float16_is_for_gpus() -> None:
    with pytest.raises(EngineStartError, match="'float16' needs a CUDA device; .* bfloat16"):
        resolve_target(EngineConfig("m", device="cpu", dtype="float16"))


@pytest.mark.parametrize(
    ("capability", "dtype", "why"),
    [
        ((9, 0), "bfloat16", "fast here"),
        ((8, 0), "bfloat16", "fast here"),
        ((7, 5), "float16", "this GPU has no bfloat16"),
    ],
)
def test_dtypes_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: str, why: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    target = resolve_target(EngineConfig("m", dtype="float32"))
    assert (str(target.device), target.dtype) == ("cuda", torch.float32)
    target = resolve_target(EngineConfig("m"))
    assert target.dtype_name == dtype
    assert target.reason == f"cuda: a CUDA device is there; {dtype}: {why}"


def test_rounded_weights_are_multiplied_in_bfloat16() -> None:
    target = resolve_target(EngineConfig("m", device="cpu", quantization="int8"))
    assert target.dtype_name == "bfloat16"


@pytest.mark.parametrize(
    ("flags", "quantization", "stays_quantized", "dtype"),
    [
        ({"avx2"}, "auto", True, "bfloat16"),
        ({"avx2"}, "auto", False, "float32"),
        ({"avx2"}, "none", True, "float32"),
        ({"avx2", "avx512_bf16"}, "auto", False, "bfloat16"),
        ({"avx2", "avx512_bf16"}, "none", False, "bfloat16"),
    ],
)
def test_dtype_follows_the_processor_and_the_weights(
    monkeypatch: pytest.MonkeyPatch,
    flags: set[str],
    quantization: Quantization,
    stays_quantized: bool,
    dtype: str,
) -> None:
    monkeypatch.setattr("engine.device.cpu_flags", lambda: frozenset(flags))
    config = EngineConfig("m", device="cpu", quantization=quantization)
    assert resolve_target(config, lambda: stays_quantized).dtype_name == dtype
    asked = replace(config, dtype="float32")
    assert resolve_target(asked, lambda: stays_quantized).dtype_name == "float32"


def test_target_auto() -> None:
    target = resolve_target(EngineConfig("m"))
    assert target.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert 1 <= target.num_threads <= (os.cpu_count() or 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(EngineStartError, match="cuda"):
        resolve_target(EngineConfig("m", device="cuda"))


def test_available_is_something() -> None:
    assert available_cpus() >= 1
    assert available_memory() > 1 << 20


def test_limits_by_default() -> None:
    limits = resolve_limits(CONFIG, MODEL, TARGET)
    assert (limits.num_blocks, limits.max_num_seqs) == (100, 64)
    assert (limits.max_num_batched_tokens, limits.max_model_len) == (512, 512)


def test_limits_follow_a_small_pool() -> None:
    limits = resolve_limits(replace(CONFIG, kv_cache_memory=10 * PAGE + 5), MODEL, TARGET)
    assert (limits.num_blocks, limits.max_num_seqs, limits.max_model_len) == (10, 10, 160)


def test_default_pool_is_bounded() -> None:
    limits = resolve_limits(replace(CONFIG, kv_cache_memory=None), MODEL, TARGET)
    assert 0 < limits.num_blocks * PAGE <= min(4 << 30, available_memory())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, block_size=24), "must be a multiple of 16"),
        (replace(CONFIG, kv_cache_memory=0), "holds 0 pages"),
        (replace(CONFIG, max_num_seqs=101), "holds 100 pages .* fewer than the 101"),
        (replace(CONFIG, max_model_len=513), "model's 512"),
        (replace(CONFIG, max_model_len=400, kv_cache_memory=20 * PAGE), "holds 320 tokens"),
    ],
)
def test_wishes_that_do_not_fit(config: EngineConfig, message: str) -> None:
    with pytest.raises(EngineStartError, match=message):
        resolve_limits(config, MODEL, TARGET)
