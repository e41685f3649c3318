"""Fills a model with the tensors of a checkpoint, or with random ones.

One weight is in memory twice at a time, never the whole model. Knows names, shapes and element
types; where a file comes from and how it is laid out is `engine/checkpoint`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint, TensorData, dequantize
from engine.errors import CheckpointError
from engine.models import Model

Progress = Callable[[str, float], None]

_PLAIN_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DUMMY_SEED = 0
_DUMMY_STD = 0.02


def load_weights(
    model: Model,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    on_progress: Progress,
) -> None:
    """Read every weight of `model`. Raises CheckpointError for a missing or misshapen tensor."""
    present = set(checkpoint.tensor_names)
    groups = list(model.weight_groups())
    for i, group in enumerate(groups):
        on_progress("loading weights", i / len(groups))
        parts = []
        for name, shape in group.shapes.items():
            if name not in present:
                raise CheckpointError(f"{checkpoint.path} has no tensor {name!r}")
            data = checkpoint.tensor(name)
            if tuple(data.shape) != shape:
                raise CheckpointError(
                    f"tensor {name!r} of {checkpoint.path} has shape {list(data.shape)}, "
                    f"but the model's configuration asks for {list(shape)}"
                )
            parts.append(_to_torch(data).to(dtype))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        group.load(joined.to(device))
    on_progress("loading weights", 1.0)


def load_random_weights(
    model: Model, device: torch.device, dtype: torch.dtype, on_progress: Progress
) -> None:
    """Small normal numbers from a fixed seed, ones for norms: a model to time, not to talk to."""
    generator = torch.Generator(device).manual_seed(_DUMMY_SEED)
    groups = list(model.weight_groups())
    for i, group in enumerate(groups):
        on_progress("making random weights", i / len(groups))
        rows = sum(shape[0] for shape in group.shapes.values())
        name, shape = next(iter(group.shapes.items()))
        if name.endswith("norm.weight"):
            weight = torch.ones(shape, device=device, dtype=dtype)
        else:
            weight = torch.empty((rows, *shape[1:]), device=device, dtype=dtype)
            weight.normal_(std=_DUMMY_STD, generator=generator)
        group.load(weight)
    on_progress("making random weights", 1.0)


def count_parameters(model: Model) -> int:
    """How many numbers the model's weights hold; tied ones count once."""
    groups = model.weight_groups()
    return sum(math.prod(shape) for group in groups for shape in group.shapes.values())


def _to_torch(data: TensorData) -> Tensor:
    if data.dtype not in _PLAIN_DTYPES:
        return torch.from_numpy(dequantize(data))
    # A copy of the mapped bytes: torch wants memory it may write to.
    raw = torch.empty(data.raw.size, dtype=torch.uint8)
    raw.numpy()[:] = data.raw.reshape(-1)
    return raw.view(_PLAIN_DTYPES[data.dtype]).view(data.shape)
