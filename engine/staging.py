"""The integers of a step on their way to the device: one copy, for which the host does not wait.

On the CPU both sides are the same memory: nothing is pinned and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Integers that a buffer has room for at first; it grows.
_MIN_CAPACITY = 4096


class Staging:
    """A ring of host buffers, so that one can be filled while others are still being copied."""

    def __init__(self, device: torch.device, num_buffers: int) -> None:
        """With `num_buffers` one above the launches under way at a time, nobody ever waits."""
        self._device = device
        self._buffers = [HostBuffer(device, torch.int64, _MIN_CAPACITY) for _ in range(num_buffers)]
        self._next = 0

    def send(self, *columns: Sequence[int]) -> list[Tensor]:
        """Each column as int64 [len(column)] on the device, in the order of the device's stream.

        Valid until `num_buffers` more were sent.
        """
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        sizes = [len(column) for column in columns]
        host = buffer.free(sum(sizes))
        numbers = host.numpy()
        first = 0
        for column, size in zip(columns, sizes, strict=True):
            numbers[first : first + size] = column
            first += size
        sent = host.to(self._device, non_blocking=True)
        buffer.mark_sent()
        return list(torch.split(sent, sizes))


class HostBuffer:
    """Host memory [capacity] that a device copies from by itself, where it is one of its own.

    Grows. Between `free` and `mark_sent` the caller fills it and queues a copy.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, capacity: int) -> None:
        self._dtype = dtype
        self._is_pinned = device.type == "cuda"
        self._sent = torch.cuda.Event() if self._is_pinned else None  # type: ignore[no-untyped-call]
        self._memory = self._take(capacity)

    def free(self, size: int) -> Tensor:
        """[size] to write to. Waits for the last copy from here, if need be."""
        if self._sent is not None:
            self._sent.synchronize()
        if size > len(self._memory):
            self._memory = self._take(max(size, 2 * len(self._memory)))
        return self._memory[:size]

    def mark_sent(self) -> None:
        """A copy from here has been queued."""
        if self._sent is not None:
            self._sent.record()

    def _take(self, size: int) -> Tensor:
        return torch.empty(size, dtype=self._dtype, pin_memory=self._is_pinned)
