"""How much memory a model's weights will take, reckoned before any is read.

Loading what cannot fit would end with the system killing a process, minutes later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from engine.config import Quantization
from engine.errors import EngineStartError
from engine.models.layers import WeightGroup

# Bits of a weight in groups of 32 with a scale and a minimum of 16 bits each: what `--quantization`
# makes, and what becomes of a file's types where they stay quantized.
_MADE: dict[Quantization, int] = {"int4": 4, "int8": 8}
_KEPT = {"Q4_0": 4, "Q4_1": 4, "Q4_K": 4, "Q5_K": 8, "Q6_K": 8, "Q8_0": 8}
_BITS_OF_FACTORS = 1


def weight_bytes(
    groups: Iterable[WeightGroup],
    number_bytes: int,
    quantization: Quantization,
    weight_type: str | None,
) -> int:
    """Bytes of all groups. `number_bytes` is the size of a plain number; `weight_type` what most
    of the file's weights are, None for made-up ones."""
    num_bits = 0
    for group in groups:
        size = sum(math.prod(shape) for shape in group.shapes.values())
        plain_bytes = number_bytes if group.dtype is None else group.dtype.itemsize
        num_bits += size * (_grouped_bits(group, quantization, weight_type) or 8 * plain_bytes)
    return num_bits // 8


def check_weights_fit(num_bytes: int, free: int, where: str) -> None:
    """Raise EngineStartError where `free` bytes are not enough; `where` says of what."""
    if num_bytes > free:
        raise EngineStartError(
            f"the weights take about {num_bytes / 1e9:,.1f} GB and of {where} "
            f"{free / 1e9:,.1f} GB are free: take a smaller model, a file with fewer bits a "
            "weight, or --quantization int8 or int4"
        )


def _grouped_bits(
    group: WeightGroup, quantization: Quantization, weight_type: str | None
) -> int | None:
    """Bits of a weight of a group that is kept in groups of 32, None if it is not."""
    if group.load_grouped is None or quantization == "none":
        return None
    if quantization == "auto":
        kept = _KEPT.get(weight_type or "")
        return None if kept is None else kept + _BITS_OF_FACTORS
    return max(_MADE[quantization], group.min_bits) + _BITS_OF_FACTORS
