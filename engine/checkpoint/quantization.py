"""From stored bytes to float32 numbers, in numpy: the oracle for every faster kernel.

The block layouts are ggml's: `d` is a block's scale, `m` its minimum, `qs` its integers; a 4-bit
block keeps weights 0 to 15 in the low and 16 to 31 in the high halves of its 16 bytes. A K-quant
block is 256 weights in parts, whose scales and minima are small integers times `d` and `dmin`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engine.checkpoint import bit_planes, codebooks
from engine.checkpoint.grouped import GroupedWeight, pack_halves, quantize, unpack
from engine.checkpoint.tensor_data import BLOCK_LAYOUTS, TensorData
from engine.errors import CheckpointError

_Q8_0 = np.dtype([("d", "<f2"), ("qs", "i1", (32,))])
_Q4_0 = np.dtype([("d", "<f2"), ("qs", "u1", (16,))])
_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", (16,))])
_Q4_K = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", (12,)), ("qs", "u1", (4, 32))])
_Q5_K = np.dtype(
    [
        *(("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", (12,))),
        *(("qh", "u1", (1, 32)), ("qs", "u1", (4, 32))),
    ]
)
# So many blocks are decoded at once: what lies between stays in the processor's cache.
_NUM_BLOCKS_AT_ONCE = 4096

_Grouped = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]


def dequantize(tensor: TensorData) -> NDArray[np.float32]:
    """The tensor's numbers as a new float32 array of `tensor.shape`.

    CheckpointError when the dtype is not one of `BLOCK_LAYOUTS`.
    """
    read = _READERS.get(tensor.dtype)
    decode = _DECODERS.get(tensor.dtype) if read is None else _from_groups(read)
    if decode is None:
        raise CheckpointError(f"weights of the type {tensor.dtype} are not supported")
    # A damaged scale may be infinite; that makes NaN weights, not a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        return _in_parts(decode, tensor)


def read_grouped(tensor: TensorData) -> GroupedWeight | None:
    """A quantized matrix as it is, or None where the file's type is not quantized.

    Exact but for two things: the scales and minima of Q4_K and Q5_K are rounded to float16 (one
    part in 2,000 at most), and Q6_K, whose scales are of 16 weights, is rounded to 8-bit values.
    """
    if tensor.dtype == "Q6_K":
        return quantize(dequantize(tensor), 8)
    read = _READERS.get(tensor.dtype)
    if read is None:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        values, *factors = read(tensor.data)
        rows = tensor.shape[0]
        scales, minima = (part.astype(np.float16).reshape(rows, -1) for part in factors)
    values = np.ascontiguousarray(values).reshape(*scales.shape, -1)
    return GroupedWeight(_num_bits(values), values, scales, minima)


def _in_parts(
    decode: Callable[[NDArray[np.uint8]], NDArray[np.float32]], tensor: TensorData
) -> NDArray[np.float32]:
    layout = BLOCK_LAYOUTS[tensor.dtype]
    weights = np.empty(math.prod(tensor.shape), np.float32)
    num_blocks = len(weights) // layout.block_size
    step = _NUM_BLOCKS_AT_ONCE * 256 // layout.block_size
    for first in range(0, num_blocks, step):
        last = min(first + step, num_blocks)
        data = tensor.data[first * layout.block_bytes : last * layout.block_bytes]
        weights[first * layout.block_size : last * layout.block_size] = decode(data).reshape(-1)
    return weights.reshape(tensor.shape)


def _from_f32(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    return data.view("<f4")


def _from_f16(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    return data.view("<f2").astype(np.float32)


def _from_bf16(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _from_groups(
    read: Callable[[NDArray[np.uint8]], _Grouped],
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    def decode(data: NDArray[np.uint8]) -> NDArray[np.float32]:
        values, scales, minima = read(data)
        weights = unpack(values, _num_bits(values)).astype(np.float32)
        weights *= scales[:, None]
        weights += minima[:, None]
        return weights

    return decode


def _column(values: NDArray[np.float16]) -> NDArray[np.float32]:
    return values.astype(np.float32)[:, None]


# Values as in `GroupedWeight`, scales and minima of groups of 32, from first to last.


def _read_q8_0(data: NDArray[np.uint8]) -> _Grouped:
    blocks = data.view(_Q8_0)
    scales = blocks["d"].astype(np.float32)
    return blocks["qs"].view(np.uint8) ^ np.uint8(0x80), scales, scales * -128


def _read_q4_0(data: NDArray[np.uint8]) -> _Grouped:
    blocks = data.view(_Q4_0)
    scales = blocks["d"].astype(np.float32)
    return blocks["qs"], scales, scales * -8


def _read_q4_1(data: NDArray[np.uint8]) -> _Grouped:
    blocks = data.view(_Q4_1)
    return blocks["qs"], blocks["d"].astype(np.float32), blocks["m"].astype(np.float32)


def _read_q4_k(data: NDArray[np.uint8]) -> _Grouped:
    blocks = data.view(_Q4_K)
    # Two groups lie in the halves of the same 32 bytes; ours lie in the halves of 16.
    groups = np.stack((blocks["qs"] & 15, blocks["qs"] >> 4), axis=2)
    return pack_halves(groups).reshape(-1, 16), *_read_k_scales(blocks)


def _read_q5_k(data: NDArray[np.uint8]) -> _Grouped:
    blocks = data.view(_Q5_K)
    groups = np.stack((blocks["qs"] & 15, blocks["qs"] >> 4), axis=2).reshape(-1, 8, 32)
    groups |= (blocks["qh"] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 4
    return groups.reshape(-1, 32), *_read_k_scales(blocks)


def _read_k_scales(blocks: NDArray[np.void]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Eight scales and eight minima of 6 bits: the last four of each have their upper bits in the
    bytes of the first four."""
    first, second, third = blocks["scales"].reshape(-1, 3, 4).swapaxes(0, 1)
    scales = np.concatenate((first & 63, third & 15 | first >> 6 << 4), axis=-1)
    minima = np.concatenate((second & 63, third >> 4 | second >> 6 << 4), axis=-1)
    return (
        (_column(blocks["d"]) * scales).reshape(-1),
        (_column(blocks["dmin"]) * minima).reshape(-1) * -1,
    )


def _num_bits(values: NDArray[np.uint8]) -> int:
    return int(values.shape[-1]) // 4


_READERS: dict[str, Callable[[NDArray[np.uint8]], _Grouped]] = {
    "Q8_0": _read_q8_0,
    "Q4_0": _read_q4_0,
    "Q4_1": _read_q4_1,
    "Q4_K": _read_q4_k,
    "Q5_K": _read_q5_k,
}

_DECODERS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "F32": _from_f32,
    "F16": _from_f16,
    "BF16": _from_bf16,
    **bit_planes.DECODERS,
    **codebooks.DECODERS,
}
