# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Noise and weights on the GPU: `gumbel.log_exponential` and `stages.weights` as Triton functions.

Only integers and operations that IEEE 754 rounds in one way: no fused multiply-add (launches turn
it off), no approximate `exp` or `log`. So the bits are the same on every GPU and in Triton's
interpreter. From torch's functions they differ in the last place, by a few units at most.
"""

from __future__ import annotations

import triton
import triton.language as tl

# -2^-31 * (1 - 2^-24), as in `gumbel.py`.
_MINUS_UNIT = tl.constexpr(-(1 - 2.0**-24) * 2.0**-31)

# ln 2 in two parts; multiples of the first by small integers are exact in float32.
_LN2_HIGH = tl.constexpr(0.693359375)
_LN2_LOW = tl.constexpr(-0.00021219444005469057)
_LOG2_E = tl.constexpr(1.4426950408889634)

# The bits of 1 and of sqrt(1/2).
_ONE = tl.constexpr(0x3F800000)
_ROOT_HALF = tl.constexpr(0x3F3504F3)


@triton.jit
def log_exponential(token_ids, key_low, key_high):
    """log(-log1p(-u)), u from the hash of the token ids (int32) under a key of two int32 words."""
    x = token_ids.to(tl.uint32, bitcast=True) ^ key_low.to(tl.uint32, bitcast=True)
    x = x * 0x9E3779B1 + key_high.to(tl.uint32, bitcast=True)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    x = x ^ (x >> 16)
    minus_u = ((x & 0x7FFFFFFF).to(tl.int32).to(tl.float32) + 0.5) * _MINUS_UNIT
    exponent, fraction = _split(1.0 + minus_u)
    # Near 1 the sum has lost digits that u still has.
    exponential = -_log(exponent, tl.where(exponent == 0, minus_u, fraction))
    exponent, fraction = _split(exponential)
    return _log(exponent, fraction)


@triton.jit
def weights(drops):
    """exp(-drop) in units of 2^-40, as int64. `drops` >= 0 or inf; 0 from 32 on."""
    drops = tl.minimum(drops, 32.0)
    halvings = tl.floor(drops * _LOG2_E + 0.5)
    x = (halvings * _LN2_HIGH - drops) + halvings * _LN2_LOW
    # The series of exp(x), |x| < 0.35: the first term left out is below a unit in the last place.
    series = 1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040)))
    series = 1.0 + (x + x * x * (0.5 + x * (1 / 6 + x * series)))
    scale = (167 - halvings.to(tl.int32)) << 23  # the bits of 2^(40 - halvings)
    return (series * scale.to(tl.float32, bitcast=True)).to(tl.int64)


@triton.jit
def _split(x):
    """x > 0 as 2^exponent * (1 + fraction), 1 + fraction in [sqrt(1/2), sqrt(2))."""
    bits = x.to(tl.int32, bitcast=True) + (_ONE - _ROOT_HALF)
    mantissa = ((bits & 0x7FFFFF) + _ROOT_HALF).to(tl.float32, bitcast=True)
    return ((bits >> 23) - 127).to(tl.float32), mantissa - 1.0


@triton.jit
def _log(exponent, f):
    """log(2^exponent * (1 + f)), by log(1 + f) = 2 artanh(s) with s = f / (2 + f).

    The series is 2s + s * tail; 2s = f - f^2/2 + s * f^2/2 keeps the digits of f.
    """
    s = tl.div_rn(f, 2.0 + f)
    z = s * s
    tail = z * (2 / 3 + z * (2 / 5 + z * (2 / 7 + z * (2 / 9))))
    half_square = 0.5 * f * f
    small = s * (half_square + tail) + exponent * _LN2_LOW
    return exponent * _LN2_HIGH - ((half_square - small) - f)
