"""Stateless noise: a pure function of (seed, choice index, position, token id).

No generator, so a draw is the same whatever else is in the batch, after a preemption, after a
restart. The host mixes seed, index and position into a 64-bit key; the device hashes token ids
under it. Integers only up to the last step, so that a C++ or Triton kernel can do the same bit for
bit. Knows nothing of logits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MASK_64 = (1 << 64) - 1
_GOLDEN_64 = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the step of splitmix64

# Multipliers of the 32-bit hash, as the signed numbers that int32 tensors take.
_MULTIPLY_1 = 0x9E3779B1 - (1 << 32)
_MULTIPLY_2 = 0x7FEB352D
_MULTIPLY_3 = 0x846CA68B - (1 << 32)

# 2^-31 * (1 - 2^-24), exact in float32: even the largest hash gives u <= 1 - 2^-24.
_UNIT = (1 - 2.0**-24) * 2.0**-31


def choice_stream(seed: int, index: int) -> int:
    """The 64-bit noise stream of one choice: `mix(mix(seed) + index)`, all modulo 2^64."""
    return _mix_64(_mix_64(seed & _MASK_64) + index & _MASK_64)


def noise_keys(streams: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One key for each row: `mix(stream + position * 0x9E3779B97F4A7C15)` modulo 2^64.

    `streams` [num_rows] uint64, `positions` [num_rows] int64 -> [num_rows, 2] int32: the low word
    k0, then the high word k1.
    """
    keys = _mix_64_array(streams + positions.astype(np.uint64) * np.uint64(_GOLDEN_64))
    low = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    high = (keys >> np.uint64(32)).astype(np.uint32)
    words: np.ndarray = np.stack([low, high], axis=1)
    return words.view(np.int32)


def hash_token_ids(token_ids: Tensor, keys: Tensor) -> Tensor:
    """32 well-mixed bits for each token, in int32 arithmetic that wraps modulo 2^32.

    `token_ids` [num_rows or 1, num_tokens] int32, `keys` [num_rows, 2] int32
    -> [num_rows, num_tokens] int32. With `>>>` the logical shift::

        x = (id ^ k0) * 0x9E3779B1 + k1
        x ^= x >>> 16;  x *= 0x7FEB352D
        x ^= x >>> 15;  x *= 0x846CA68B
        x ^= x >>> 16

    The last two lines but one are `lowbias32` of Chris Wellons' hash-prospector.
    """
    bits = (token_ids ^ keys[:, :1]).mul_(_MULTIPLY_1).add_(keys[:, 1:])
    shifted = torch.empty_like(bits)
    _xor_shift(bits, 16, shifted).mul_(_MULTIPLY_2)
    _xor_shift(bits, 15, shifted).mul_(_MULTIPLY_3)
    return _xor_shift(bits, 16, shifted)


def log_exponential(token_ids: Tensor, keys: Tensor) -> Tensor:
    """The logarithm of an Exp(1) variable for each token: minus a standard Gumbel variable.

    Shapes as in `hash_token_ids`; float32, all finite, from -22.2 to 2.8. With
    `m = hash & 0x7FFFFFFF`::

        u = (float(m) + 0.5) * 2^-31 * (1 - 2^-24)
        result = log(-log1p(-u))

    Small `u` make the large Gumbel values that win a draw; there the grid of `u` is finest.
    """
    bits = hash_token_ids(token_ids, keys).bitwise_and_(0x7FFFFFFF)
    noise = bits.to(torch.float32)
    return noise.add_(0.5).mul_(-_UNIT).log1p_().neg_().log_()


def _xor_shift(bits: Tensor, shift: int, scratch: Tensor) -> Tensor:
    """`bits ^= bits >>> shift` in place; torch shifts int32 arithmetically, so mask the sign."""
    torch.bitwise_right_shift(bits, shift, out=scratch)
    return bits.bitwise_xor_(scratch.bitwise_and_((1 << (32 - shift)) - 1))


def _mix_64(value: int) -> int:
    """The number that splitmix64 (Steele, Lea, Flood 2014) draws in state `value`."""
    return int(_mix_64_array(np.array([value], dtype=np.uint64))[0])


def _mix_64_array(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(_GOLDEN_64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed
