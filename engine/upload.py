"""Bytes of mapped files on their way to the device, without a copy of the whole in between.

Two host buffers in turn: one is filled from the file while the other is being copied.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.staging import HostBuffer

_CHUNK_BYTES = 32 << 20
_NUM_BUFFERS = 2


class Uploader:
    """For devices with memory of their own."""

    def __init__(self, device: torch.device, chunk_bytes: int = _CHUNK_BYTES) -> None:
        self._device = device
        self._chunk_bytes = chunk_bytes
        self._buffers = [HostBuffer(device, torch.uint8, chunk_bytes) for _ in range(_NUM_BUFFERS)]

    def upload(self, data: NDArray[np.uint8]) -> Tensor:
        """`data` [num_bytes] as uint8 on the device, in the order of its stream."""
        uploaded = torch.empty(data.size, dtype=torch.uint8, device=self._device)
        for i, first in enumerate(range(0, data.size, self._chunk_bytes)):
            part = data[first : first + self._chunk_bytes]
            buffer = self._buffers[i % _NUM_BUFFERS]
            host = buffer.free(part.size)
            host.numpy()[:] = part
            uploaded[first : first + part.size].copy_(host, non_blocking=True)
            buffer.mark_sent()
        return uploaded
