"""`AttentionRule` as C++ reads it."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32
from functools import cache

from engine.attention import AttentionRule

_ALL_POSITIONS = 2**31 - 1


class Rule(ctypes.Structure):
    """`Rule` of step.h."""

    _fields_ = (("window", c_int32), ("soft_cap", c_float), ("scale", c_float))


@cache
def native_rule(rule: AttentionRule, head_dim: int) -> Rule:
    """The rule for heads of this size. A model has one or two, asked for by every layer."""
    window = _ALL_POSITIONS if rule.window is None else min(rule.window, _ALL_POSITIONS)
    return Rule(window, rule.soft_cap or 0.0, rule.score_scale(head_dim))
