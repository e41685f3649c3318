"""Parts that model files share: weights with their checkpoint names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.checkpoint import GroupedWeight
from engine.checkpoint.model_config import ModelConfig
from engine.kernels.base import Embedding, Kernels, Linear

_VOCABULARY_BITS = 8


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Tensors of a checkpoint that become one weight: joined along the first dimension.

    `shapes` maps their names to their shapes, in order; `load` takes the joined tensor over. Where
    `load_grouped` is there, it is called instead with weights that are to stay quantized; they are
    not rounded to fewer than `min_bits`. `dtype` is the tensor's if it is not the model's.
    """

    shapes: dict[str, tuple[int, ...]]
    load: Callable[[Tensor], None]
    load_grouped: Callable[[GroupedWeight], None] | None = None
    min_bits: int = 4
    dtype: torch.dtype | None = None


class RMSNorm:
    """A norm over vectors of `size`, its weight called `name` in a checkpoint.

    `dtype` is that of the weight where the model's would round it.
    """

    weight: Tensor

    def __init__(
        self,
        kernels: Kernels,
        name: str,
        size: int,
        eps: float,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.kernels = kernels
        self.name = name
        self.size = size
        self.eps = eps
        self.dtype = dtype

    def __call__(self, x: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (norm of x + residual, x + residual) and may overwrite both inputs."""
        return self.kernels.add_rms_norm(x, residual, self.weight, self.eps)

    def weight_groups(self) -> Iterator[WeightGroup]:
        yield WeightGroup({f"{self.name}.weight": (self.size,)}, self._load, dtype=self.dtype)

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


class Vocabulary:
    """The table of embeddings, called `name` in a checkpoint, and the head that gives logits: the
    same weight, where it is tied.

    Rounding it to 4 bits costs more quality than all other matrices together: it keeps 8.
    """

    embed: Embedding

    def __init__(
        self, config: ModelConfig, kernels: Kernels, name: str = "model.embed_tokens"
    ) -> None:
        self.kernels = kernels
        self.name = name
        self.shape = (config.vocab_size, config.hidden_size)
        self.is_tied = config.tie_word_embeddings
        self.head = Projection(
            kernels,
            {"lm_head": config.vocab_size},
            config.hidden_size,
            output_dtype=torch.float32,
        )

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden_size] -> float32 [num_rows, vocab_size]"""
        return self.head(hidden)

    def embedding_groups(self) -> Iterator[WeightGroup]:
        grouped = self._load_embedding if self.kernels.takes_grouped(self.shape[1]) else None
        shapes: dict[str, tuple[int, ...]] = {f"{self.name}.weight": self.shape}
        yield WeightGroup(shapes, self._load_embedding, grouped, _VOCABULARY_BITS)

    def head_groups(self) -> Iterator[WeightGroup]:
        if not self.is_tied:
            for group in self.head.weight_groups():
                yield replace(group, min_bits=_VOCABULARY_BITS)

    def _load_embedding(self, weight: Tensor | GroupedWeight) -> None:
        self.embed = self.kernels.pack_embedding(weight)
        if self.is_tied:
            self.head.load_weight(weight)
