"""Weights as numbers out of a table: ggml's I-quants and MXFP4, to float32.

A grid has whole runs of 4 or 8 weights, and a block says which run, its signs and its scale. The
grids are in `grids.txt`, which tells where they come from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_IQ2_XXS = np.dtype([("d", "<f2"), ("parts", [("runs", "u1", (4,)), ("bits", "<u4")], (8,))])
_IQ2_XS = np.dtype([("d", "<f2"), ("runs", "<u2", (32,)), ("scales", "u1", (8,))])
_IQ2_S = np.dtype(
    [
        *(("d", "<f2"), ("runs", "u1", (32,)), ("signs", "u1", (32,))),
        *(("high", "u1", (8,)), ("scales", "u1", (8,))),
    ]
)
_IQ3_XXS = np.dtype([("d", "<f2"), ("runs", "u1", (64,)), ("bits", "<u4", (8,))])
_IQ3_S = np.dtype(
    [
        *(("d", "<f2"), ("runs", "u1", (64,)), ("high", "u1", (8,))),
        *(("signs", "u1", (32,)), ("scales", "u1", (4,))),
    ]
)
_IQ1_S = np.dtype([("d", "<f2"), ("runs", "u1", (32,)), ("high", "<u2", (8,))])
_IQ1_M = np.dtype([("runs", "u1", (32,)), ("high", "u1", (16,)), ("scales", "<u2", (4,))])
_IQ4_NL = np.dtype([("d", "<f2"), ("qs", "u1", (1, 16))])
_IQ4_XS = np.dtype([("d", "<f2"), ("high", "<u2"), ("low", "u1", (4,)), ("qs", "u1", (8, 16))])
_MXFP4 = np.dtype([("e", "u1"), ("qs", "u1", (1, 16))])

# ggml's table for IQ4_NL and IQ4_XS: 16 levels, closer together around zero.
_IQ4_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
# E2M1 of the OCP Microscaling specification by sign, exponent and mantissa, times two.
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)

_DELTA = np.float32(0.125)  # IQ1: how far all weights of a run lie from -1, 0 or 1


@cache
def grid(name: str) -> Floats:
    """One of the grids, [runs, 4 or 8]. It must not be written to."""
    lines = files(__package__).joinpath("grids.txt").read_text("ascii").splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == [f"[{name}]"]) + 1
    _, run_length, per_digit, *levels = lines[start - 1].split()
    end = next((i for i in range(start, len(lines)) if lines[i].startswith("[")), len(lines))
    digits = np.array([int(digit, 16) for digit in "".join(lines[start:end])], np.uint8)
    if per_digit == "2":
        digits = np.stack((digits & 3, digits >> 2), axis=-1)
    table = np.array(levels, np.float32)[digits].reshape(-1, int(run_length))
    table.flags.writeable = False
    return table


def _signs() -> Floats:
    """Eight factors of -1 or 1 by the bits of a byte."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return 1 - 2 * bits.astype(np.float32)


_SIGNS = _signs()
# Where seven bits are stored, the eighth makes the number of minus signs even.
_EVEN_SIGNS = np.array([_SIGNS[i | i.bit_count() % 2 << 7] for i in range(128)])


def from_iq2_xxs(data: Bytes) -> Floats:
    blocks = data.view(_IQ2_XXS)
    runs, bits = blocks["parts"]["runs"], blocks["parts"]["bits"]
    weights: Floats = grid("iq2_xxs")[runs] * _signs_of_four(bits)
    return weights * _fraction(blocks, bits >> 28, 0.25)[..., None, None]


def from_iq2_xs(data: Bytes) -> Floats:
    blocks = data.view(_IQ2_XS)
    runs = blocks["runs"]
    weights: Floats = (grid("iq2_xs")[runs & 511] * _EVEN_SIGNS[runs >> 9]).reshape(-1, 16, 2, 8)
    return weights * _fraction(blocks, _nibbles(blocks["scales"]), 0.25)[..., None, None]


def from_iq2_s(data: Bytes) -> Floats:
    blocks = data.view(_IQ2_S)
    runs = blocks["runs"] | _high_bits(blocks["high"], 2, 4)
    weights: Floats = (grid("iq2_s")[runs] * _SIGNS[blocks["signs"]]).reshape(-1, 16, 2, 8)
    return weights * _fraction(blocks, _nibbles(blocks["scales"]), 0.25)[..., None, None]


def from_iq3_xxs(data: Bytes) -> Floats:
    blocks = data.view(_IQ3_XXS)
    bits = blocks["bits"]
    weights: Floats = grid("iq3_xxs")[blocks["runs"]].reshape(-1, 8, 4, 8) * _signs_of_four(bits)
    return weights * _fraction(blocks, bits >> 28, 0.5)[..., None, None]


def from_iq3_s(data: Bytes) -> Floats:
    blocks = data.view(_IQ3_S)
    runs = blocks["runs"] | _high_bits(blocks["high"], 1, 8)
    weights: Floats = grid("iq3_s")[runs].reshape(-1, 32, 8) * _SIGNS[blocks["signs"]]
    scales = _column(blocks["d"]) * (1 + 2 * _nibbles(blocks["scales"]))
    return weights.reshape(-1, 8, 32) * scales[..., None]


def from_iq1_s(data: Bytes) -> Floats:
    blocks = data.view(_IQ1_S)
    high = blocks["high"]
    runs = blocks["runs"].reshape(-1, 8, 4) | (high[..., None] >> _steps(3, 4, high) & 7) << 8
    deltas = np.where(high & 0x8000, -_DELTA, _DELTA)
    scales = _column(blocks["d"]) * (2 * (high >> 12 & 7) + 1)
    weights: Floats = grid("iq1")[runs] + deltas[..., None, None]
    return weights * scales[..., None, None]


def from_iq1_m(data: Bytes) -> Floats:
    blocks = data.view(_IQ1_M)
    scales = blocks["scales"]
    # The block's own scale is cut in four, one part above each word of scales.
    bits = np.bitwise_or.reduce(scales >> 12 << _steps(4, 4, scales), axis=-1, dtype=np.uint16)
    small = (scales[..., None] >> _steps(3, 4, scales) & 7).reshape(-1, 16)
    high = (blocks["high"][..., None] >> _steps(4, 2, blocks["high"])).reshape(-1, 32)
    runs = blocks["runs"] | (high & 7).astype(np.uint16) << 8
    weights: Floats = grid("iq1")[runs] + np.where(high & 8, -_DELTA, _DELTA)[..., None]
    factors: Floats = _column(bits.view(np.float16)) * (2 * small + 1)
    return weights.reshape(-1, 16, 2, 8) * factors[..., None, None]


def from_iq4_nl(data: Bytes) -> Floats:
    blocks = data.view(_IQ4_NL)
    weights: Floats = _IQ4_LEVELS[_halves(blocks["qs"])]
    return weights * _column(blocks["d"])[..., None]


def from_iq4_xs(data: Bytes) -> Floats:
    blocks = data.view(_IQ4_XS)
    high = blocks["high"]
    scales = _nibbles(blocks["low"]) | (high[:, None] >> _steps(2, 8, high) & 3) << 4
    factors: Floats = _column(blocks["d"]) * (scales.astype(np.float32) - 32)
    weights: Floats = _IQ4_LEVELS[_halves(blocks["qs"])]
    return weights * factors[..., None]


def from_mxfp4(data: Bytes) -> Floats:
    blocks = data.view(_MXFP4)
    scales = np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 128)
    return _E2M1[_halves(blocks["qs"])] * scales[:, None, None]


def _fraction(blocks: NDArray[np.void], scales: NDArray[Any], unit: float) -> Floats:
    """Scales with a half added, in `unit`s of the block's own: [blocks, parts]."""
    return _column(blocks["d"]) * (np.float32(0.5) + scales.astype(np.float32)) * np.float32(unit)


def _signs_of_four(bits: NDArray[np.uint32]) -> Floats:
    """Four times seven sign bits in a word: [..., 4, 8]."""
    signs: Floats = _EVEN_SIGNS[bits[..., None] >> _steps(7, 4, bits) & 127]
    return signs


def _high_bits(source: Bytes, num_bits: int, per_byte: int) -> NDArray[np.uint16]:
    """What a run's index has above its eight lower bits: [blocks, runs]."""
    bits = source[..., None] >> _steps(num_bits, per_byte, source) & ((1 << num_bits) - 1)
    indices: NDArray[np.uint16] = bits.reshape(len(source), -1).astype(np.uint16) << 8
    return indices


def _nibbles(values: Bytes) -> Bytes:
    """Each byte's lower half and then its upper one: [blocks, 2 * bytes]."""
    return np.stack((values & 15, values >> 4), axis=-1).reshape(len(values), -1)


def _halves(values: Bytes) -> Bytes:
    """The lower halves of all bytes and then the upper ones: [..., 2 * bytes]."""
    return np.concatenate((values & 15, values >> 4), axis=-1)


def _steps(size: int, count: int, like: NDArray[Any]) -> NDArray[Any]:
    """0, size, 2 * size, ...: how far to shift for each of `count` fields of a word."""
    return (np.arange(count) * size).astype(like.dtype)


def _column(values: NDArray[np.float16]) -> Floats:
    return values.astype(np.float32)[:, None]


DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "IQ1_S": from_iq1_s,
    "IQ1_M": from_iq1_m,
    "IQ2_XXS": from_iq2_xxs,
    "IQ2_XS": from_iq2_xs,
    "IQ2_S": from_iq2_s,
    "IQ3_XXS": from_iq3_xxs,
    "IQ3_S": from_iq3_s,
    "IQ4_NL": from_iq4_nl,
    "IQ4_XS": from_iq4_xs,
    "MXFP4": from_mxfp4,
}
"""From the bytes of whole blocks to their weights in order, in any shape."""
