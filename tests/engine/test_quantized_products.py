"""Products with quantized weights: exact integers, the same bits for a row in any company.

The oracle does the same arithmetic in float64. Every instruction set that this machine has is built
and tried, the slow ones too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checkpoint import default_cache_dir
from engine.checkpoint.grouped import GroupedWeight, unpack
from engine.kernels import select
from engine.kernels.cpu import CpuKernels
from engine.kernels.cpu.quantized import QuantizedProducts

# What the compiler calls them, what its code needs, and what then multiplies.
INSTRUCTION_SETS = {
    "native": ((), None),
    "x86-64-v4": (("avx512f", "avx512bw", "avx512dq", "avx512vl"), "AVX-512"),
    "x86-64-v3": (("avx2", "fma", "f16c", "bmi2"), "AVX2"),
    "x86-64": (("sse2",), ""),
}


def cpu_flags() -> list[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split() for line in lines if line.startswith("flags")), [])


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def kernels(request: pytest.FixtureRequest) -> CpuKernels:
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler")  # a compiler that refuses our source is a failure
    flags, instructions = INSTRUCTION_SETS[request.param]
    if not set(flags) <= set(cpu_flags()):
        pytest.skip("this processor has no such instructions")
    found = CpuKernels(torch.bfloat16, default_cache_dir(), request.param)
    assert instructions is None or found.products.instructions == instructions
    assert found.takes_grouped(64) == bool(found.products.instructions)
    return found


@pytest.fixture
def products(kernels: CpuKernels) -> QuantizedProducts:
    return kernels.products


@pytest.fixture(params=[1, 2, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def random_weight(seed: int, num_bits: int, num_outputs: int, num_inputs: int) -> GroupedWeight:
    rng = np.random.default_rng(seed)
    groups = (num_outputs, num_inputs // 32)
    return GroupedWeight(
        num_bits,
        rng.integers(0, 256, (*groups, 4 * num_bits), np.uint8),
        rng.normal(0, 0.01, groups).astype(np.float16),
        rng.normal(0, 0.05, groups).astype(np.float16),
    )


def oracle(
    x: Tensor, weight: GroupedWeight, is_fused: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x W^T as `quantized.h` defines it, in float64, and the sum of what was added up.

    `is_fused`: the processor multiplies and adds with one rounding, which decides about halves.
    """
    groups = x.float().numpy().reshape(len(x), -1, 1, 32)
    limits = np.abs(groups).max(-1, keepdims=True)
    factors = np.divide(np.float32(127), limits, where=limits > 0, out=np.zeros_like(limits))
    scaled = groups.astype(np.float64) * factors if is_fused else groups * factors
    integers = np.rint(scaled).astype(np.int64)[:, :, 0]
    scales = (limits / np.float32(127))[..., 0, 0].astype(np.float64)
    values = unpack(weight.values, weight.num_bits).astype(np.int64)
    dots = np.einsum("mgk,ngk->mng", integers, values)
    weighted = dots * weight.scales.astype(np.float64) * scales[:, None]
    shifted = weight.minima.astype(np.float64) * (scales * integers.sum(-1))[:, None]
    return (weighted + shifted).sum(-1), (np.abs(weighted) + np.abs(shifted)).sum(-1)


def check(products: QuantizedProducts, x: Tensor, weight: GroupedWeight) -> Tensor:
    expected, magnitude = oracle(x, weight, is_fused=bool(products.instructions))
    logits: Tensor = products.pack(weight, None, torch.float32)(x)
    assert np.all(np.abs(logits.numpy() - expected) <= 1e-5 * magnitude)
    rounded: Tensor = products.pack(weight, None, torch.bfloat16)(x)
    assert torch.equal(rounded, logits.to(torch.bfloat16))
    return logits


@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize(
    ("num_outputs", "num_inputs"), [(32, 32), (96, 576), (1, 64), (33, 96), (50, 1536), (577, 160)]
)
@pytest.mark.parametrize("num_rows", [1, 5, 6, 70])
def test_products_are_the_oracle_s(
    products: QuantizedProducts, num_bits: int, num_outputs: int, num_inputs: int, num_rows: int
) -> None:
    torch.manual_seed(num_rows)
    x = (torch.randn(num_rows, num_inputs) * torch.randn(num_rows, 1).exp()).bfloat16()
    check(products, x, random_weight(num_outputs, num_bits, num_outputs, num_inputs))


@pytest.mark.parametrize("num_bits", [4, 8])
def test_every_number_of_rows_and_a_row_alone(
    products: QuantizedProducts, num_bits: int, num_threads: int
) -> None:
    weight = random_weight(3, num_bits, 608, 192)
    linear = products.pack(weight, None, torch.float32)
    torch.manual_seed(4)
    x = torch.randn(300, 192).bfloat16()
    together = linear(x)
    torch.set_num_threads(1)
    for row in (0, 1, 7, 255, 256, 299):
        assert torch.equal(linear(x[row : row + 1]), together[row : row + 1])
    torch.set_num_threads(num_threads)
    for num_rows in range(1, 71):
        first = num_rows % 7
        assert torch.equal(linear(x[first : first + num_rows]), together[first : first + num_rows])


@pytest.mark.parametrize("num_bits", [4, 8])
def test_the_largest_numbers_do_not_saturate(products: QuantizedProducts, num_bits: int) -> None:
    groups = (40, 3)
    weight = GroupedWeight(
        num_bits,
        np.full((*groups, 4 * num_bits), 255, np.uint8),
        np.ones(groups, np.float16),
        np.zeros(groups, np.float16),
    )
    x = torch.ones(3, 96, dtype=torch.bfloat16)
    x[1] = -1
    x[2, ::2] = -1
    result = check(products, x, weight)
    assert result[0, 0] == pytest.approx(96 * ((1 << num_bits) - 1), rel=1e-6)
    assert result[1, 0] == -result[0, 0]
    assert result[2].abs().max() < 1e-3


def test_zeros_and_invalid_numbers(products: QuantizedProducts) -> None:
    x = torch.randn(4, 64).bfloat16()
    x[0] = 0
    x[1, 40] = torch.nan
    x[2, 3] = torch.inf
    result = products.pack(random_weight(1, 4, 32, 64), None, torch.bfloat16)(x)
    assert (result[0] == 0).all()
    assert not result[1].isfinite().any()
    assert not result[2].isfinite().any()
    assert result[3].isfinite().all()


def test_bias(products: QuantizedProducts) -> None:
    weight, bias = random_weight(5, 4, 50, 64), torch.randn(50).bfloat16()
    x = torch.randn(9, 64).bfloat16()
    plain = products.pack(weight, None, torch.float32)(x)
    assert torch.equal(products.pack(weight, bias, torch.float32)(x), plain + bias.float())


def test_float16_is_read_exactly(products: QuantizedProducts) -> None:
    """Every finite scale, also the subnormal ones."""
    bits = np.arange(0x7C00, dtype=np.uint16)
    scales = np.concatenate((bits, bits | 0x8000)).view(np.float16)[:, None]
    values = np.ones((len(scales), 1, 32), np.uint8)
    weight = GroupedWeight(8, values, scales, np.zeros_like(scales))
    x = torch.zeros(1, 32, dtype=torch.bfloat16)
    x[0, 0] = 127
    result = products.pack(weight, None, torch.float32)(x)
    np.testing.assert_array_equal(result[0].numpy(), 127 * scales[:, 0].astype(np.float32))


@pytest.mark.parametrize("num_bits", [4, 8])
def test_rows_of_a_table(num_bits: int) -> None:
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler")
    weight = random_weight(6, num_bits, 20, 96)
    ids = torch.tensor([3, 0, 19, 3])
    rows = select(torch.device("cpu"), torch.bfloat16, "cpu").pack_embedding(weight)(ids)
    expected = torch.from_numpy(weight.dequantize())[ids].bfloat16()
    assert torch.equal(rows, expected)
