"""Parts that model files share: weights with their checkpoint names, and rotary angles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.checkpoint import GroupedWeight
from engine.checkpoint.model_config import ModelConfig, RopeScaling
from engine.kernels.base import Kernels, Linear


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Tensors of a checkpoint that become one weight: joined along the first dimension.

    `shapes` maps their names to their shapes, in order; `load` takes the joined tensor over. Where
    `load_grouped` is there, it is called instead with weights that are to stay quantized; they are
    not rounded to fewer than `min_bits`.
    """

    shapes: dict[str, tuple[int, ...]]
    load: Callable[[Tensor], None]
    load_grouped: Callable[[GroupedWeight], None] | None = None
    min_bits: int = 4


class RMSNorm:
    """A norm over vectors of `size`, its weight called `name` in a checkpoint."""

    weight: Tensor

    def __init__(self, kernels: Kernels, name: str, size: int, eps: float) -> None:
        self.kernels = kernels
        self.name = name
        self.size = size
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (norm of x + residual, x + residual) and may overwrite both inputs."""
        return self.kernels.add_rms_norm(x, residual, self.weight, self.eps)

    def weight_groups(self) -> Iterator[WeightGroup]:
        yield WeightGroup({f"{self.name}.weight": (self.size,)}, self._load)

    def _load(self, weight: Tensor) -> None:
        self.weight = weight


class Projection:
    """One matrix product for several matrices of a checkpoint that share their input.

    `outputs` maps their names to their output sizes.
    """

    matrix: Linear

    def __init__(
        self,
        kernels: Kernels,
        outputs: dict[str, int],
        input_size: int,
        bias: bool = False,
        output_dtype: torch.dtype | None = None,
    ) -> None:
        self.kernels = kernels
        self.outputs = outputs
        self.input_size = input_size
        self.has_bias = bias
        self.output_dtype = output_dtype
        self.bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.matrix(x)

    def weight_groups(self) -> Iterator[WeightGroup]:
        # The bias first: the weight is packed together with it.
        if self.has_bias:
            biases: dict[str, tuple[int, ...]]
            biases = {f"{name}.bias": (size,) for name, size in self.outputs.items()}
            yield WeightGroup(biases, self._load_bias)
        weights: dict[str, tuple[int, ...]]
        weights = {f"{name}.weight": (size, self.input_size) for name, size in self.outputs.items()}
        grouped = self.load_weight if self.kernels.takes_grouped(self.input_size) else None
        yield WeightGroup(weights, self.load_weight, grouped)

    def _load_bias(self, bias: Tensor) -> None:
        self.bias = bias

    def load_weight(self, weight: Tensor | GroupedWeight) -> None:
        self.matrix = self.kernels.pack_linear(weight, self.bias, self.output_dtype)


class Rotary:
    """Rotary embedding (Su et al., 2021) in the half-split layout of Hugging Face."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        frequencies = 1.0 / config.rope_theta**exponents
        if config.rope_scaling is not None:
            frequencies = _scaled(frequencies, config.rope_scaling)
        self.frequencies = frequencies.to(device)  # [head_dim / 2]

    def __call__(self, positions: Tensor) -> Tensor:
        """[num_tokens] -> [num_tokens, 2, head_dim] float32: (cos, cos) and (-sin, sin)."""
        angles = positions[:, None].float() * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos, -sin, sin), dim=-1).view(len(positions), 2, -1)


def _scaled(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    # Llama 3.1: short wavelengths stay, long ones stretch, those between are interpolated.
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelengths
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / span).clamp(0, 1)
    return frequencies * kept + frequencies / scaling.factor * (1 - kept)
