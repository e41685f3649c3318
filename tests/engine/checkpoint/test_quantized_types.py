"""Every quantized GGUF type against the `gguf` package's own numbers, bit for bit."""

import gguf
import numpy as np
import pytest
from gguf.quants import IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS
from gguf.quants import dequantize as oracle
from quantized_blocks import QUANTIZED, STD, random_blocks, random_tensor

from engine.checkpoint import TensorData, dequantize
from engine.checkpoint.codebooks import grid
from engine.checkpoint.tensor_data import BLOCK_LAYOUTS

# ggml computes with it and never writes it to a file; the package cannot read it.
WITHOUT_ORACLE = "Q8_K"
WITH_ORACLE = [dtype for dtype in QUANTIZED if dtype != WITHOUT_ORACLE]


def test_every_type_in_common_use_is_read() -> None:
    names = {kind.name for kind in gguf.GGMLQuantizationType}
    # Q8_1 is of ggml's inner products, the integers and F64 are no weights, the last two are new.
    unread = {"Q8_1", "I8", "I16", "I32", "I64", "F64", "NVFP4", "Q1_0"}
    assert names - set(BLOCK_LAYOUTS) <= unread


@pytest.mark.parametrize("dtype", WITH_ORACLE)
def test_any_bytes_give_the_packages_numbers(dtype: str) -> None:
    layout = BLOCK_LAYOUTS[dtype]
    data = np.random.default_rng(3).integers(0, 256, (512, layout.block_bytes), np.uint8)
    with np.errstate(all="ignore"):  # scales that are infinite or no number
        expected = oracle(data, gguf.GGMLQuantizationType[dtype])
    result = dequantize(TensorData(dtype, (512, layout.block_size), data.reshape(-1)))
    assert np.isfinite(expected).mean() > 0.9
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", WITH_ORACLE)
def test_a_matrix_of_many_parts(dtype: str) -> None:
    """Larger than what is decoded at once, and not a multiple of it."""
    shape = (3, 256 * 1368)
    tensor = random_tensor(dtype, shape)
    expected = oracle(tensor.data.reshape(3, -1), gguf.GGMLQuantizationType[dtype])
    result = dequantize(tensor)
    assert result.shape == shape
    assert result.flags.writeable
    assert 0.5 * STD < result.std() < 2 * STD
    np.testing.assert_array_equal(result, expected)


def test_q8_k_by_its_definition() -> None:
    data = random_blocks(WITHOUT_ORACLE, (4, 512))
    result = dequantize(TensorData(WITHOUT_ORACLE, (4, 512), data))
    blocks = data.reshape(8, 292)
    scales = blocks[:, :4].copy().view("<f4")
    expected = scales * blocks[:, 4:260].view(np.int8)
    np.testing.assert_array_equal(result, expected.reshape(4, 512))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("iq1", IQ1_S),
        ("iq2_xxs", IQ2_XXS),
        ("iq2_xs", IQ2_XS),
        ("iq2_s", IQ2_S),
        ("iq3_xxs", IQ3_XXS),
        ("iq3_s", IQ3_S),
    ],
)
def test_grids_are_the_packages(name: str, kind: type) -> None:
    kind.init_grid()  # type: ignore[attr-defined]
    expected = kind.grid.reshape(kind.grid_shape)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(grid(name), expected)
    assert not grid(name).flags.writeable
