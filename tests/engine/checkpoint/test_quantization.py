"""Every supported dtype against the `gguf` package's own numbers, bit for bit."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as oracle
from gguf.quants import quantize

from engine.checkpoint import TensorData, dequantize
from engine.checkpoint.tensor_data import BLOCK_LAYOUTS, num_bytes, to_half_rotated
from engine.errors import CheckpointError


def make_tensor(dtype: str, shape: tuple[int, ...]) -> TensorData:
    numbers = np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)
    data = quantize(numbers, gguf.GGMLQuantizationType[dtype])
    return TensorData(dtype, shape, data.reshape(-1).view(np.uint8))


@pytest.mark.parametrize("dtype", BLOCK_LAYOUTS)
def test_dequantize_equals_the_gguf_package(dtype: str) -> None:
    tensor = make_tensor(dtype, (6, 96))
    kind = gguf.GGMLQuantizationType[dtype]
    plain = {"F32": np.float32, "F16": np.float16}.get(dtype, np.uint8)
    expected = oracle(tensor.data.view(plain).reshape(6, -1), kind)
    result = dequantize(tensor)
    assert result.shape == (6, 96)
    assert result.dtype == np.float32
    assert result.flags.writeable
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", BLOCK_LAYOUTS)
def test_block_layouts_equal_the_gguf_package(dtype: str) -> None:
    sizes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]]
    layout = BLOCK_LAYOUTS[dtype]
    assert (layout.block_size, layout.block_bytes) == sizes
    assert num_bytes(dtype, (6, 96)) == len(make_tensor(dtype, (6, 96)).data)


@pytest.mark.parametrize("dtype", BLOCK_LAYOUTS)
def test_any_bytes_dequantize_without_a_warning(dtype: str) -> None:
    layout = BLOCK_LAYOUTS[dtype]
    data = np.full(layout.block_bytes * 2, 0x7C, np.uint8)  # float16 0x7C7C is a NaN
    data[:2] = (0x00, 0x7C)  # float16 infinity
    assert dequantize(TensorData(dtype, (2, layout.block_size), data)).shape[0] == 2


def test_unsupported_dtype_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"Q4_K.*supported are F32, F16, BF16, Q8_0"):
        dequantize(TensorData("Q4_K", (1, 256), np.zeros(144, np.uint8)))


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
