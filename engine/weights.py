"""Fills a model with the tensors of a checkpoint, or with random ones.

One weight is in memory twice at a time, never the whole model; plain numbers go to a device of its
own as they are read, and are converted there. Knows names, shapes and element
types; where a file comes from and how it is laid out is `engine/checkpoint`'s business.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checkpoint import Checkpoint, GroupedWeight, TensorData, dequantize, read_grouped
from engine.checkpoint.grouped import join, quantize
from engine.config import Quantization
from engine.models import Model
from engine.models.layers import WeightGroup
from engine.upload import Uploader

Progress = Callable[[str, float], None]

_PLAIN_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NUM_BITS: dict[Quantization, int] = {"int8": 8, "int4": 4}
_DUMMY_SEED = 0
_DUMMY_STD = 0.02


def load_weights(
    model: Model,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    on_progress: Progress,
    quantization: Quantization = "auto",
) -> None:
    """Read every weight of `model`; one that cannot be read raises CheckpointError.

    Matrices that may stay quantized do, as `quantization` says.
    """
    read = _read_on_host if device.type == "cpu" else Uploader(device).upload
    groups = list(model.weight_groups())
    for i, group in enumerate(groups):
        on_progress("loading weights", i / len(groups))
        tensors = [checkpoint.tensor(name) for name in group.shapes]
        assert [data.shape for data in tensors] == list(group.shapes.values()), group.shapes
        if not _load_grouped(group, tensors, quantization):
            to = group.dtype or dtype
            parts = [_to_torch(data, read).to(device, to) for data in tensors]
            group.load(parts[0] if len(parts) == 1 else torch.cat(parts))
    on_progress("loading weights", 1.0)


def _load_grouped(
    group: WeightGroup, tensors: list[TensorData], quantization: Quantization
) -> bool:
    """Load the group quantized, if it can be and is to be."""
    if group.load_grouped is None or quantization == "none":
        return False
    parts: list[GroupedWeight] = []
    for tensor in tensors:
        part = read_grouped(tensor)
        if quantization != "auto":
            num_bits = max(_NUM_BITS[quantization], group.min_bits)
            if part is None or part.num_bits > num_bits:
                part = quantize(_to_torch(tensor, _read_on_host).float().numpy(), num_bits)
        if part is None:
            return False
        parts.append(part)
    group.load_grouped(join(parts))
    return True


def load_random_weights(
    model: Model,
    device: torch.device,
    dtype: torch.dtype,
    on_progress: Progress,
    quantization: Quantization = "auto",
) -> None:
    """Small normal numbers from a fixed seed, ones for norms: a model to time, not to talk to."""
    generator = torch.Generator(device).manual_seed(_DUMMY_SEED)
    groups = list(model.weight_groups())
    for i, group in enumerate(groups):
        on_progress("making random weights", i / len(groups))
        rows = sum(shape[0] for shape in group.shapes.values())
        name, shape = next(iter(group.shapes.items()))
        if name.endswith("norm.weight"):
            weight = torch.ones(shape, device=device, dtype=group.dtype or dtype)
        else:
            weight = torch.empty((rows, *shape[1:]), device=device, dtype=dtype)
            weight.normal_(std=_DUMMY_STD, generator=generator)
        if group.load_grouped is not None and quantization in _NUM_BITS:
            num_bits = max(_NUM_BITS[quantization], group.min_bits)
            group.load_grouped(quantize(weight.float().numpy(), num_bits))
        else:
            group.load(weight)
    on_progress("making random weights", 1.0)


def _to_torch(data: TensorData, read: Callable[[NDArray[np.uint8]], Tensor]) -> Tensor:
    """The numbers of the file: quantized ones in float32, plain ones where `read` puts them."""
    if data.dtype not in _PLAIN_DTYPES:
        return torch.from_numpy(dequantize(data))
    return read(data.data).view(_PLAIN_DTYPES[data.dtype]).view(data.shape)


def _read_on_host(data: NDArray[np.uint8]) -> Tensor:
    # A copy of the mapped bytes: torch wants memory it may write to.
    raw = torch.empty(data.size, dtype=torch.uint8)
    raw.numpy()[:] = data
    return raw
