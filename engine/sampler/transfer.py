"""Copies between the host and the device that do not make the host wait.

On the CPU both are the same memory and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IntArray: TypeAlias = NDArray[np.int64]


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor on `device`; the copy runs in the order of the device's stream."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def columns_to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Arrays [num_rows] as float32 columns [num_rows, 1], sent in one copy."""
    columns = np.stack([array.astype(np.float32) for array in arrays])
    return list(to_device(columns[:, :, None], device))


class HostCopy:
    """Tensors on their way to the host. The copies start at once; `wait` blocks until all came."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        # From a GPU, a non-blocking copy lands in pinned memory, and is not there before its event.
        self._tensors = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._arrived: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors):
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def wait(self) -> list[Tensor]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors
