"""Dequantization and the one form that kernels multiply; the types: `test_quantized_types.py`."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as oracle
from gguf.quants import quantize
from quantized_blocks import random_tensor

from engine.checkpoint import TensorData, dequantize, read_grouped
from engine.checkpoint.grouped import join
from engine.checkpoint.grouped import quantize as quantize_grouped
from engine.checkpoint.tensor_data import BLOCK_LAYOUTS, num_bytes, to_half_rotated
from engine.errors import CheckpointError

PLAIN = ["F32", "F16", "BF16"]


def make_tensor(dtype: str, shape: tuple[int, int]) -> TensorData:
    if dtype not in PLAIN:
        return random_tensor(dtype, shape)
    numbers = np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)
    data = quantize(numbers, gguf.GGMLQuantizationType[dtype])
    return TensorData(dtype, shape, data.reshape(-1).view(np.uint8))


@pytest.mark.parametrize("dtype", PLAIN)
def test_dequantize_equals_the_gguf_package(dtype: str) -> None:
    tensor = make_tensor(dtype, (6, 256))
    kind = gguf.GGMLQuantizationType[dtype]
    plain = {"F32": np.float32, "F16": np.float16}.get(dtype, np.uint8)
    expected = oracle(tensor.data.view(plain).reshape(6, -1), kind)
    result = dequantize(tensor)
    assert result.shape == (6, 256)
    assert result.dtype == np.float32
    assert result.flags.writeable
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", BLOCK_LAYOUTS)
def test_block_layouts_equal_the_gguf_package(dtype: str) -> None:
    sizes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]]
    layout = BLOCK_LAYOUTS[dtype]
    assert (layout.block_size, layout.block_bytes) == sizes
    assert num_bytes(dtype, (6, 256)) == len(make_tensor(dtype, (6, 256)).data)


@pytest.mark.parametrize("dtype", BLOCK_LAYOUTS)
def test_any_bytes_dequantize_without_a_warning(dtype: str) -> None:
    layout = BLOCK_LAYOUTS[dtype]
    data = np.full(layout.block_bytes * 2, 0x7C, np.uint8)  # float16 0x7C7C is a NaN
    data[:2] = (0x00, 0x7C)  # float16 infinity
    tensor = TensorData(dtype, (2, layout.block_size), data)
    assert dequantize(tensor).shape[0] == 2
    grouped = read_grouped(tensor)
    if grouped is not None:
        with np.errstate(invalid="ignore"):
            numbers = grouped.dequantize()
        assert not np.isfinite(numbers).all(), "damage shows"


def test_unsupported_dtype_is_named() -> None:
    with pytest.raises(CheckpointError, match="NVFP4 are not supported"):
        dequantize(TensorData("NVFP4", (1, 64), np.zeros(36, np.uint8)))


@pytest.mark.parametrize("dtype", ["F32", "BF16", "Q4_1", "Q8_0"])
def test_rows_go_back_to_half_rotated_order(dtype: str) -> None:
    interleaved = make_tensor(dtype, (2 * 8, 32))
    result = to_half_rotated(interleaved, num_heads=2)
    rows = dequantize(interleaved)
    # Worked out by hand for heads of 8 rows: even rows first, then odd ones.
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    expected = rows[order + [8 + row for row in order]]
    np.testing.assert_array_equal(dequantize(result), expected)
    assert not result.data.flags.writeable


# How far from the file's numbers, relative to the largest of them.
GROUPED_ERRORS = {"Q4_0": 0, "Q4_1": 0, "Q8_0": 0, "Q4_K": 5e-4, "Q5_K": 5e-4, "Q6_K": 5e-3}


@pytest.mark.parametrize("dtype", GROUPED_ERRORS)
def test_quantized_weights_stay_what_they_are(dtype: str) -> None:
    tensor = make_tensor(dtype, (6, 512))
    expected = dequantize(tensor)
    grouped = read_grouped(tensor)
    assert grouped is not None
    assert grouped.num_bits == (4 if dtype.startswith("Q4") else 8)
    assert grouped.shape == (6, 512)
    np.testing.assert_allclose(
        grouped.dequantize(), expected, rtol=0, atol=GROUPED_ERRORS[dtype] * abs(expected).max()
    )
    np.testing.assert_array_equal(grouped.widen().dequantize(), grouped.dequantize())


def test_what_kernels_do_not_multiply_is_not_grouped() -> None:
    for dtype in BLOCK_LAYOUTS:
        if dtype not in GROUPED_ERRORS:
            assert read_grouped(make_tensor(dtype, (2, 256))) is None, dtype


def test_matrices_of_different_types_are_joined() -> None:
    tensors = [make_tensor(dtype, (4, 256)) for dtype in ("Q4_K", "Q6_K", "Q4_1")]
    parts = [part for part in map(read_grouped, tensors) if part is not None]
    joined = join(parts)
    assert joined.num_bits == 8
    assert joined.shape == (12, 256)
    expected = np.concatenate([part.dequantize() for part in parts])
    np.testing.assert_array_equal(joined.dequantize(), expected)
    assert join(parts[:1]) is parts[0]
    assert join([parts[0], parts[2]]).num_bits == 4


@pytest.mark.parametrize("num_bits", [4, 8])
def test_rounding_is_to_the_nearest_value(num_bits: int) -> None:
    numbers = np.random.default_rng(2).normal(0, 0.02, (300, 96)).astype(np.float32)
    numbers[0] = 0
    numbers[1] = 0.5
    numbers[2, :32] = 1e-7
    grouped = quantize_grouped(numbers, num_bits)
    groups = numbers.reshape(300, 3, 32)
    steps = (groups.max(-1) - groups.min(-1)) / ((1 << num_bits) - 1)
    error = np.abs(grouped.dequantize() - numbers).reshape(300, 3, 32)
    if num_bits == 8:
        assert (error.max(-1) <= 0.51 * steps + 1e-7).all()
    plain = np.square(steps).mean() / 12  # of rounding to equal steps over the whole range
    assert np.square(error).mean() < (1.05 if num_bits == 8 else 0.9) * plain
    np.testing.assert_array_equal(grouped.dequantize()[:2], numbers[:2])
