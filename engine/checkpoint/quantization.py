"""From stored bytes to float32 numbers, in numpy: the oracle for every faster kernel.

The block layouts are ggml's: `d` is a block's scale, `m` its minimum, `qs` its integers; a 4-bit
block keeps weights 0 to 15 in the low and 16 to 31 in the high halves of its 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engine.checkpoint.tensor_data import BLOCK_LAYOUTS, TensorData
from engine.errors import CheckpointError

_Q8_0 = np.dtype([("d", "<f2"), ("qs", "i1", (32,))])
_Q4_0 = np.dtype([("d", "<f2"), ("qs", "u1", (16,))])
_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", (16,))])


def dequantize(tensor: TensorData) -> NDArray[np.float32]:
    """The tensor's numbers as a new float32 array of `tensor.shape`.

    CheckpointError when the dtype is not one of `BLOCK_LAYOUTS`.
    """
    decode = _DECODERS.get(tensor.dtype)
    if decode is None:
        raise CheckpointError(
            f"cannot read weights of type {tensor.dtype}; supported are {', '.join(BLOCK_LAYOUTS)}"
        )
    # A damaged scale may be infinite; that makes NaN weights, not a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        return decode(tensor.data).reshape(tensor.shape)


def _from_f32(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    return data.view("<f4").astype(np.float32)


def _from_f16(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    return data.view("<f2").astype(np.float32)


def _from_bf16(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _from_q8_0(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    blocks = data.view(_Q8_0)
    # [num_blocks, 32]; int8 times float32 is float32 without a converted copy of the integers.
    weights: NDArray[np.float32] = np.multiply(blocks["qs"], _column(blocks["d"]), dtype=np.float32)
    return weights


def _from_q4_0(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    blocks = data.view(_Q4_0)
    weights = _nibbles(blocks["qs"])
    weights -= 8
    weights *= _column(blocks["d"])
    return weights


def _from_q4_1(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    blocks = data.view(_Q4_1)
    weights = _nibbles(blocks["qs"])
    weights *= _column(blocks["d"])
    weights += _column(blocks["m"])
    return weights


def _column(values: NDArray[np.float16]) -> NDArray[np.float32]:
    return values.astype(np.float32)[:, None]


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[num_blocks, 16] bytes to [num_blocks, 32] numbers in 0..15."""
    numbers = np.empty((len(packed), 32), dtype=np.float32)
    numbers[:, :16] = packed & 15
    numbers[:, 16:] = packed >> 4
    return numbers


_DECODERS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "F32": _from_f32,
    "F16": _from_f16,
    "BF16": _from_bf16,
    "Q8_0": _from_q8_0,
    "Q4_0": _from_q4_0,
    "Q4_1": _from_q4_1,
}
