"""The machine's own ceilings: copy bandwidth, matrix rate, what a launch costs.

    python -m benchmarks.gpu.limits [--out FOLDER] [--quick]

Random data throughout: matrices of zeros are multiplied faster. The other parts measure the copy
bandwidth again, so that a share is always of the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.gpu.environment import find_environment, resolve_device
from benchmarks.gpu.options import parser
from benchmarks.gpu.report import Figure, Report
from benchmarks.gpu.timing import copy_bandwidth, time_each, time_in_turn

# Rows of x in x W^T: decoding at some batch sizes, then a chunk of a prompt.
_NUM_ROWS = (1, 8, 32, 64, 128, 256, 8192)
_NUM_LAUNCHES = 2000


def matrix_times(device: torch.device, rows: int, inner: int, columns: int) -> list[float]:
    """Seconds of products in bfloat16 of random matrices, in turn with several weights, so that
    none of them is in a cache."""
    num_weights = max(2, min(8, (1 << 30) // (2 * inner * columns)))
    x = torch.randn(rows, inner, dtype=torch.bfloat16, device=device)
    weights = [
        torch.randn(columns, inner, dtype=torch.bfloat16, device=device) for _ in range(num_weights)
    ]

    def products() -> None:
        for weight in weights:
            torch.nn.functional.linear(x, weight)

    return [seconds / num_weights for seconds in time_each(products, device, 10)]


def launch_seconds(device: torch.device, num_launches: int) -> dict[str, float]:
    """Seconds for one small operation of many: queued one by one, and with the device waited for
    after each. On a GPU also as a node of a captured graph."""
    x = torch.zeros(64, device=device)
    figures = {
        "queued": _seconds(lambda: x.add_(1), device, num_launches, waits=False),
        "waited for": _seconds(lambda: x.add_(1), device, num_launches, waits=True),
        "read to the host": _seconds(lambda: x[0].item(), device, num_launches, waits=False),
    }
    if device.type == "cuda":
        figures["node of a graph"] = time_in_turn([lambda: x.add_(1)] * num_launches, device)
    return figures


def _seconds(
    work: Callable[[], object], device: torch.device, repeats: int, *, waits: bool
) -> float:
    work()
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        work()
        if waits:
            _wait(device)
    _wait(device)
    return (time.perf_counter() - started) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    args = parser(__doc__).parse_args()
    device = resolve_device(args.device)
    is_small = args.quick or device.type == "cpu"
    report = Report("limits", args.out, find_environment(device))

    rows = []
    for megabytes in (1, 4, 16) if is_small else (16, 256, 1024, 4096):
        bandwidth = copy_bandwidth(device, megabytes << 20)
        rows.append([f"{megabytes} MiB", bandwidth / 1e9])
        report.figure(Figure("machine", f"copy {megabytes} MiB", {"bytes_per_s": bandwidth}))
    report.table("copy within the device's memory, read and written", ["buffer", "GB/s"], rows)

    rows = []
    width = 256 if is_small else 8192
    for num_rows in _NUM_ROWS[:3] if is_small else _NUM_ROWS:
        seconds = median(matrix_times(device, num_rows, width, width))
        rate = 2 * num_rows * width * width / seconds
        weights = 2 * width * width / seconds
        rows.append([f"{num_rows} x {width} x {width}", 1e6 * seconds, rate / 1e12, weights / 1e9])
        values = {"seconds": seconds, "flop_per_s": rate, "weight_bytes_per_s": weights}
        report.figure(Figure("machine", f"matrix {num_rows}", values))
    columns = ["product in bf16", "us", "TFLOP/s", "weights GB/s"]
    report.table("matrix products, random data, weights not in a cache", columns, rows)

    costs = launch_seconds(device, 50 if is_small else _NUM_LAUNCHES)
    rows = [[name, 1e6 * seconds] for name, seconds in costs.items()]
    report.table("one small operation", ["how", "us"], rows)
    report.figure(Figure("machine", "launch", costs))


if __name__ == "__main__":
    main()
