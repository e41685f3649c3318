"""Times of work on a device: by events on a GPU, by the host's clock elsewhere. And how busy a GPU
was, from a profiler's trace.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from engine.graphs import CudaRecorder

_GPU_WORK = {"kernel", "gpu_memcpy", "gpu_memset"}


def time_each(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each call, after three that do not count."""
    for _ in range(3):
        work()
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return times
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [1e-3 * a.elapsed_time(b) for a, b in zip(events, events[1:], strict=False)]


def time_in_turn(
    works: Sequence[Callable[[], object]], device: torch.device, repeats: int = 20
) -> float:
    """Seconds of one of `works`, which run one after the other. On a GPU as parts of one graph, so
    that the host's time for launching them is not in it."""

    def all_of_them() -> None:
        # Kept until all are there: none is written to what a cache still holds of another.
        results = [work() for work in works]
        del results

    repeated = CudaRecorder().record(all_of_them) if device.type == "cuda" else all_of_them
    return median(time_each(repeated, device, repeats)) / len(works)


def copy_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes read and written a second by a copy within the device's memory."""
    source = torch.empty(num_bytes // 8, dtype=torch.int64, device=device).random_()
    target = torch.empty_like(source)
    return 2 * num_bytes / median(time_each(lambda: target.copy_(source), device, 20))


def ceiling_bandwidth(device: torch.device, is_quick: bool) -> float:
    """The copy bandwidth that shares are told of: of buffers far larger than any cache."""
    return copy_bandwidth(device, 1 << 24 if is_quick or device.type == "cpu" else 1 << 32)


@dataclass(frozen=True)
class Trace:
    """What a GPU did: seconds with any work on it, and the longest of its kernels."""

    busy_seconds: float
    num_kernels: int
    kernel_seconds: dict[str, float]

    def longest(self, count: int) -> list[tuple[str, float]]:
        return Counter(self.kernel_seconds).most_common(count)


def trace_gpu(work: Callable[[], object]) -> Trace:
    """Run `work` under torch's profiler, which records the GPU alone."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        return read_trace(json.loads(file.read_text())["traceEvents"])


def read_trace(events: Iterable[dict]) -> Trace:
    """From the events of a trace in Chrome's format, whose times are microseconds."""
    work = [event for event in events if event.get("cat") in _GPU_WORK and "dur" in event]
    seconds: Counter[str] = Counter()
    for event in work:
        seconds[event["name"]] += 1e-6 * event["dur"]
    spans = [(1e-6 * event["ts"], 1e-6 * (event["ts"] + event["dur"])) for event in work]
    return Trace(covered(spans), len(work), dict(seconds))


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How much of the time line lies in any of the spans (start, end)."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
