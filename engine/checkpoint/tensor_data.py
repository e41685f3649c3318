"""One tensor as it lies in a checkpoint: its dtype, its shape and its raw bytes.

Knows the size of each supported dtype, the orders that numbers may be stored in and how a file is
mapped. Knows neither file format, nor what the numbers mean (see `quantization.py`).
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How a row is stored: in blocks of `block_size` weights, each `block_bytes` bytes long."""

    block_size: int
    block_bytes: int


BLOCK_LAYOUTS = {
    "F32": BlockLayout(1, 4),
    "F16": BlockLayout(1, 2),
    "BF16": BlockLayout(1, 2),
    "Q8_0": BlockLayout(32, 34),
    "Q4_0": BlockLayout(32, 18),
    "Q4_1": BlockLayout(32, 20),
    "Q5_0": BlockLayout(32, 22),
    "Q5_1": BlockLayout(32, 24),
    "Q2_K": BlockLayout(256, 84),
    "Q3_K": BlockLayout(256, 110),
    "Q4_K": BlockLayout(256, 144),
    "Q5_K": BlockLayout(256, 176),
    "Q6_K": BlockLayout(256, 210),
    "Q8_K": BlockLayout(256, 292),
    "IQ1_S": BlockLayout(256, 50),
    "IQ1_M": BlockLayout(256, 56),
    "IQ2_XXS": BlockLayout(256, 66),
    "IQ2_XS": BlockLayout(256, 74),
    "IQ2_S": BlockLayout(256, 82),
    "IQ3_XXS": BlockLayout(256, 98),
    "IQ3_S": BlockLayout(256, 110),
    "IQ4_NL": BlockLayout(32, 18),
    "IQ4_XS": BlockLayout(256, 136),
    "TQ1_0": BlockLayout(256, 54),
    "TQ2_0": BlockLayout(256, 66),
    "MXFP4": BlockLayout(32, 17),
}


@dataclass(frozen=True, slots=True, eq=False)
class TensorData:
    """A tensor that has not been converted.

    `shape` is in torch order (the last dimension is contiguous). `data` is a flat, read-only uint8
    array of little-endian bytes, in most cases a view of the mapped file.
    """

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """The size of a tensor in bytes; ValueError says what is wrong with the dtype or the shape."""
    layout = BLOCK_LAYOUTS.get(dtype)
    if layout is None:
        raise ValueError(
            f"has the type {dtype}, which is not supported; convert the model to another, such as "
            "Q8_0 or Q4_K"
        )
    row_size = shape[-1] if shape else 1
    if row_size % layout.block_size:
        raise ValueError(
            f"has rows of {row_size} weights, which {dtype} cannot hold (multiples of "
            f"{layout.block_size})"
        )
    return math.prod(shape) // layout.block_size * layout.block_bytes


def map_file(path: Path) -> NDArray[np.uint8]:
    """A regular file as a flat read-only uint8 array; pages are read when they are touched.

    The mapping lives as long as any view of it. CheckpointError when the file cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise CheckpointError(f"{path}: the file is empty")
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def to_half_rotated(tensor: TensorData, num_heads: int) -> TensorData:
    """The rows of a query or key projection, from interleaved to half-rotated order (a copy).

    Rows that rotate together lie next to each other in a Llama GGUF (2i, 2i + 1), and half a head
    apart in Hugging Face's order (i, i + head_dim / 2). Blocks run along rows, so whole rows move,
    quantized or not. `tensor` is [num_heads * head_dim, ...].
    """
    num_rows = tensor.shape[0]
    half = num_rows // num_heads // 2
    assert num_rows == num_heads * half * 2, "the shape was checked when the checkpoint was opened"
    rows = tensor.data.reshape(num_heads, half, 2, -1)
    data = np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)
    data.flags.writeable = False
    return TensorData(tensor.dtype, tensor.shape, data)


def to_transposed(tensor: TensorData) -> TensorData:
    """A matrix of plain numbers with its dimensions exchanged (a copy)."""
    rows, columns = tensor.shape
    layout = BLOCK_LAYOUTS[tensor.dtype]
    assert layout.block_size == 1, "no format stores quantized weights this way"
    numbers = tensor.data.reshape(rows, columns, layout.block_bytes)
    data = np.ascontiguousarray(numbers.swapaxes(0, 1)).reshape(-1)
    data.flags.writeable = False
    return TensorData(tensor.dtype, (columns, rows), data)


def to_wide_rotary(tensor: TensorData, num_heads: int, rotary_dim: int) -> TensorData:
    """The rows of a projection whose heads turn in their first `rotary_dim` numbers alone, so that
    numbers that turn together lie half a head apart (a copy).

    A head's turning halves and the halves of its rest change places: first, rest, second, rest.
    Queries and keys alike, so their products stay. `tensor` is [num_heads * head_dim, ...].
    """
    num_rows = tensor.shape[0]
    head_dim, half = num_rows // num_heads, rotary_dim // 2
    middle = (head_dim + rotary_dim) // 2
    order = [*range(half), *range(rotary_dim, middle), *range(half, rotary_dim)]
    order += range(middle, head_dim)
    rows = tensor.data.reshape(num_heads, head_dim, -1)
    data = np.ascontiguousarray(rows[:, order]).reshape(-1)
    data.flags.writeable = False
    return TensorData(tensor.dtype, tensor.shape, data)
