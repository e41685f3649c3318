"""Quantized weights in one form, whatever the file's: integers in groups, scaled and shifted.

w = value * scale + minimum, for 32 weights of a row at a time; what fast kernels multiply with.
Knows the arithmetic and the packing of values; the block formats are `quantization.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUP_SIZE = 32

# Shares of a group's range that 4-bit values may cover; what lies outside is cut off. The best one
# is kept, group by group. Eight bits cover the range.
_RANGES = {4: (1.0, 0.93, 0.86), 8: (1.0,)}
_NUM_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class GroupedWeight:
    """A matrix [rows, columns] in groups of 32 columns.

    `values` uint8 [rows, groups, 4 * num_bits]: with 8 bits one a byte; with 4 bits a group's first
    16 in the low halves of its bytes and the others in the high ones. `scales` and `minima` float16
    [rows, groups].
    """

    num_bits: int
    values: NDArray[np.uint8]
    scales: NDArray[np.float16]
    minima: NDArray[np.float16]

    @property
    def shape(self) -> tuple[int, int]:
        rows, groups = self.scales.shape
        return rows, groups * GROUP_SIZE

    def dequantize(self) -> NDArray[np.float32]:
        """The numbers, [rows, columns]."""
        weights = unpack(self.values, self.num_bits).astype(np.float32)
        weights *= self.scales[..., None].astype(np.float32)
        weights += self.minima[..., None].astype(np.float32)
        return weights.reshape(self.shape)

    def widen(self) -> GroupedWeight:
        """The same numbers from 8-bit values."""
        return GroupedWeight(8, unpack(self.values, self.num_bits), self.scales, self.minima)


def unpack(values: NDArray[np.uint8], num_bits: int) -> NDArray[np.uint8]:
    """[..., 4 * num_bits] as in `GroupedWeight` to one value a byte, [..., 32]."""
    if num_bits == 8:
        return values
    return np.concatenate((values & 15, values >> 4), axis=-1)


def pack_halves(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The other way, for values of 4 bits."""
    packed: NDArray[np.uint8] = values[..., :16] | values[..., 16:] << np.uint8(4)
    return packed


def join(weights: Sequence[GroupedWeight]) -> GroupedWeight:
    """One matrix of the rows of several; 4-bit ones are widened where others have 8 bits."""
    if len(weights) == 1:
        return weights[0]
    num_bits = max(weight.num_bits for weight in weights)
    parts = [weight if weight.num_bits == num_bits else weight.widen() for weight in weights]
    return GroupedWeight(
        num_bits,
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.minima for part in parts]),
    )


def quantize(weights: NDArray[np.float32], num_bits: int) -> GroupedWeight:
    """Round a matrix [rows, columns] to values of 4 or 8 bits; columns in multiples of 32."""
    groups = weights.reshape(len(weights), -1, GROUP_SIZE)
    # What is damaged, or too large for float16, shows in the numbers and is no warning.
    with np.errstate(invalid="ignore", over="ignore"):
        parts = [
            _quantize(groups[first : first + _NUM_ROWS_AT_ONCE], num_bits)
            for first in range(0, len(groups), _NUM_ROWS_AT_ONCE)
        ]
    return join(parts)


def _quantize(groups: NDArray[np.float32], num_bits: int) -> GroupedWeight:
    """[rows, groups, 32]"""
    top = (1 << num_bits) - 1
    low, high = groups.min(-1), groups.max(-1)
    middle, half = (low + high) / 2, (high - low) / 2
    best: tuple[NDArray[np.float32], ...] = ()
    for share in _RANGES[num_bits]:
        candidate = _round(groups, middle - half * share, half * (2 * share / top), top)
        if num_bits == 4:
            candidate = _refit(groups, candidate, top)
        error = np.square(_numbers(candidate) - groups).sum(-1)
        if not best:
            best = (*candidate, error)
            continue
        is_better = error < best[3]
        best = tuple(
            np.where(is_better[..., None] if new.ndim == 3 else is_better, new, old)
            for new, old in zip((*candidate, error), best, strict=True)
        )
    values = best[0].astype(np.uint8)
    if num_bits == 4:
        values = pack_halves(values)
    return GroupedWeight(num_bits, values, best[1].astype(np.float16), best[2].astype(np.float16))


_Rounded = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def _round(
    groups: NDArray[np.float32], minima: NDArray[np.float32], scales: NDArray[np.float32], top: int
) -> _Rounded:
    """Values, scales and minima, these as float16 has them: the values make up for what it lost."""
    scales = scales.astype(np.float16).astype(np.float32)
    minima = minima.astype(np.float16).astype(np.float32)
    divisors = np.where(scales == 0, np.float32(1), scales)[..., None]
    values = np.rint((groups - minima[..., None]) / divisors)
    return np.clip(values, 0, top), scales, minima


def _refit(groups: NDArray[np.float32], rounded: _Rounded, top: int) -> _Rounded:
    """Scales and minima that fit the values best (least squares), then values that fit these."""
    values = rounded[0]
    mean_value, mean = values.mean(-1), groups.mean(-1)
    centred = values - mean_value[..., None]
    spread = np.square(centred).sum(-1)
    scales = (centred * groups).sum(-1) / np.where(spread == 0, np.float32(1), spread)
    return _round(groups, mean - scales * mean_value, scales, top)


def _numbers(rounded: _Rounded) -> NDArray[np.float32]:
    values, scales, minima = rounded
    return values * scales[..., None] + minima[..., None]
