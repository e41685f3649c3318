"""Integer weights whose bits lie apart in a block: ggml's Q5, Q2_K, Q3_K, Q6_K and ternary types.

To float32, in the order that the block stands for; `quantization.py` says what the fields are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_Q5_0 = np.dtype([("d", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,))])
_Q5_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,))])
_Q2_K = np.dtype([("scales", "u1", (16,)), ("qs", "u1", (2, 32)), ("d", "<f2"), ("dmin", "<f2")])
_Q3_K = np.dtype(
    [("qh", "u1", (1, 32)), ("qs", "u1", (2, 32)), ("scales", "u1", (12,)), ("d", "<f2")]
)
_Q6_K = np.dtype(
    [("ql", "u1", (2, 64)), ("qh", "u1", (2, 32)), ("scales", "i1", (16,)), ("d", "<f2")]
)
_Q8_K = np.dtype([("d", "<f4"), ("qs", "i1", (256,)), ("sums", "<i2", (16,))])
_TQ1_0 = np.dtype(
    [("qs", "u1", (1, 32)), ("qs_more", "u1", (1, 16)), ("qh", "u1", (1, 4)), ("d", "<f2")]
)
_TQ2_0 = np.dtype([("qs", "u1", (2, 32)), ("d", "<f2")])


def from_q5_0(data: Bytes) -> Floats:
    blocks = data.view(_Q5_0)
    return (_five_bits(blocks) - 16) * _column(blocks["d"])


def from_q5_1(data: Bytes) -> Floats:
    blocks = data.view(_Q5_1)
    return _five_bits(blocks) * _column(blocks["d"]) + _column(blocks["m"])


def from_q2_k(data: Bytes) -> Floats:
    blocks = data.view(_Q2_K)
    weights = _pairs_of_bits(blocks["qs"]).reshape(-1, 16, 16).astype(np.float32)
    weights *= (_column(blocks["d"]) * (blocks["scales"] & 15))[..., None]
    weights -= (_column(blocks["dmin"]) * (blocks["scales"] >> 4))[..., None]
    return weights


def from_q3_k(data: Bytes) -> Floats:
    blocks = data.view(_Q3_K)
    values = _pairs_of_bits(blocks["qs"])
    values |= (blocks["qh"] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 2
    low, high = blocks["scales"][:, None, :8], blocks["scales"][:, None, 8:]
    # Sixteen scales of 6 bits: four bits of each in the halves of 8 bytes, two in 4 more.
    scales = (low >> np.array([[0], [4]], np.uint8) & 15).reshape(-1, 16)
    scales |= (high >> np.array([[0], [2], [4], [6]], np.uint8) & 3).reshape(-1, 16) << 4
    weights = values.reshape(-1, 16, 16).astype(np.float32)
    weights -= 4
    weights *= (_column(blocks["d"]) * (scales.astype(np.float32) - 32))[..., None]
    return weights


def from_q6_k(data: Bytes) -> Floats:
    blocks = data.view(_Q6_K)
    low, high = blocks["ql"], blocks["qh"]
    # Each half: the low halves of 64 bytes, then their high ones; two more bits from 32 bytes.
    values = np.concatenate((low & 15, low >> 4), axis=-1).reshape(-1, 2, 4, 32)
    for quarter in range(4):
        values[:, :, quarter] |= (high >> (2 * quarter) & 3) << 4
    weights = values.reshape(-1, 16, 16).astype(np.float32)
    weights -= 32
    weights *= (_column(blocks["d"]) * blocks["scales"])[..., None]
    return weights


def from_q8_k(data: Bytes) -> Floats:
    blocks = data.view(_Q8_K)
    weights: Floats = blocks["qs"] * blocks["d"][:, None]
    return weights


def from_tq1_0(data: Bytes) -> Floats:
    blocks = data.view(_TQ1_0)
    parts = (_ternary(blocks["qs"], 5), _ternary(blocks["qs_more"], 5), _ternary(blocks["qh"], 4))
    return np.concatenate(parts, axis=-1) * _column(blocks["d"])


def from_tq2_0(data: Bytes) -> Floats:
    blocks = data.view(_TQ2_0)
    weights = _pairs_of_bits(blocks["qs"]).reshape(-1, 256).astype(np.float32)
    weights -= 1
    return weights * _column(blocks["d"])


def _five_bits(blocks: NDArray[np.void]) -> Floats:
    """Weights 0 to 31: four bits in the halves of 16 bytes, the fifth in a word: [blocks, 32]."""
    values = np.concatenate((blocks["qs"] & 15, blocks["qs"] >> 4), axis=-1)
    values |= np.unpackbits(np.ascontiguousarray(blocks["qh"]), axis=-1, bitorder="little") << 4
    return values.astype(np.float32)


def _pairs_of_bits(values: Bytes) -> Bytes:
    """Two bits each, the lowest ones of 32 bytes first: [blocks, 2, 32] to [blocks, 8, 32]."""
    pairs: Bytes = values[:, :, None] >> np.array([[0], [2], [4], [6]], np.uint8) & np.uint8(3)
    return pairs.reshape(-1, 8, 32)


def _ternary(values: Bytes, num_digits: int) -> Floats:
    """Digits -1, 0 and 1 in base 3, the highest of all bytes first.

    A byte is the fraction of its digits, rounded up: times 3, the whole part is the first digit.
    """
    powers = np.array([[1], [3], [9], [27], [81]], np.uint8)[:num_digits]
    digits = (values * powers).astype(np.uint16) * 3 >> 8
    return digits.reshape(len(values), -1).astype(np.float32) - 1


def _column(values: NDArray[np.float16]) -> Floats:
    return values.astype(np.float32)[:, None]


DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "Q5_0": from_q5_0,
    "Q5_1": from_q5_1,
    "Q2_K": from_q2_k,
    "Q3_K": from_q3_k,
    "Q6_K": from_q6_k,
    "Q8_K": from_q8_k,
    "TQ1_0": from_tq1_0,
    "TQ2_0": from_tq2_0,
}
"""From the bytes of whole blocks to their weights in order, in any shape."""
