"""Fills a model with the tensors of a checkpoint, or with random ones.

One weight is in memory twice at a time, never the whole model. Knows names, shapes and element
types; where a file comes from and how it is laid out is `engine/checkpoint`'s business.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint, TensorData, dequantize
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
    """Read every weight of `model`; one that cannot be read raises CheckpointError."""
    groups = list(model.weight_groups())
    for i, group in enumerate(groups):
        on_progress("loading weights", i / len(groups))
        parts = []
        for name, shape in group.shapes.items():
            data = checkpoint.tensor(name)
            assert data.shape == shape, (name, data.shape, shape)
            parts.append(_to_torch(data).to(dtype))
        group.load((parts[0] if len(parts) == 1 else torch.cat(parts)).to(device))
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


def _to_torch(data: TensorData) -> Tensor:
    if data.dtype not in _PLAIN_DTYPES:
        return torch.from_numpy(dequantize(data))
    # A copy of the mapped bytes: torch wants memory it may write to.
    raw = torch.empty(data.data.size, dtype=torch.uint8)
    raw.numpy()[:] = data.data
    return raw.view(_PLAIN_DTYPES[data.dtype]).view(data.shape)
