"""Each kernel by itself: right first, then its time against the machine's ceilings.

    python -m benchmarks.gpu.kernels [--out FOLDER] [--quick] [--kernels auto|triton|reference]

Every case is compared with float64 on the memory that it is then timed on; pages lie scattered over
a pool of more than 2^31 numbers. Shares are of the copy bandwidth and of the matrix rate that this
run measures itself. Cases run in turn on memory that no cache holds. On a GPU they are parts of one
graph: what it costs to launch them is in limits.py. Exit code 1 when anything is wrong.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median

import torch

from benchmarks.gpu.environment import find_environment, resolve_device
from benchmarks.gpu.kernel_cases import LAYERS, QUICK_LAYERS, TARGET, Case, CaseMaker
from benchmarks.gpu.limits import matrix_times
from benchmarks.gpu.options import parser
from benchmarks.gpu.report import Cell, Figure, Report
from benchmarks.gpu.timing import ceiling_bandwidth, time_in_turn
from engine.kernels import select

_MIN_SHARE = 0.85
# So much memory is gone through before any is met again: several times an H200's 60 MB of cache.
_COLD_BYTES = 1 << 28
_MAX_COPIES = 256
# Launches that are timed together; the edges of what is timed weigh less then.
_MIN_LAUNCHES = 8
_POOL_NUMBERS = (1 << 31) * 5 // 4
_COLUMNS = ("us", "GB/s", "of copy", "TFLOP/s", "of matrix", "error / eps", "right")


def time_case(case: Case, device: torch.device) -> tuple[float, float, bool]:
    """Seconds; the error found before, in units of the format's epsilon; whether that is right."""
    if device.type == "cpu":  # to see that it works; interpreted, each run takes a while
        made = case.make()
        error = made.error()
        return time_in_turn([made.run], device, 2), error.largest / error.epsilon, error.is_right
    num_copies = min(_MAX_COPIES, math.ceil(_COLD_BYTES / case.num_bytes))
    copies = [case.make() for _ in range(num_copies)]
    error = copies[0].error()
    works = [each.run for each in islice(cycle(copies), max(_MIN_LAUNCHES, num_copies))]
    return time_in_turn(works, device), error.largest / error.epsilon, error.is_right


@dataclass(frozen=True)
class Ceilings:
    """Of this machine: bytes a second of a copy, operations a second of a product in bfloat16."""

    bandwidth: float
    rate: float

    @classmethod
    def measure(cls, device: torch.device, is_small: bool) -> Ceilings:
        width = 256 if is_small else 8192
        seconds = median(matrix_times(device, width, width, width))
        return cls(ceiling_bandwidth(device, is_small), 2 * width**3 / seconds)


def report_cases(
    report: Report, title: str, cases: Iterable[Case], device: torch.device, ceilings: Ceilings
) -> bool:
    """A table with a row for each; whether all are right."""
    rows: list[list[Cell]] = []
    is_right = True
    for case in cases:
        seconds, error, case_is_right = time_case(case, device)
        is_right &= case_is_right
        bandwidth, rate = case.num_bytes / seconds, case.num_flops / seconds
        values = {"seconds": seconds, "bytes_per_s": bandwidth, "error_eps": error}
        report.figure(Figure("octavo", f"{title}: {case.name}", values | {"flop_per_s": rate}))
        share = bandwidth / ceilings.bandwidth
        products: list[Cell] = [rate / 1e12, rate / ceilings.rate] if rate else [None, None]
        verdict = "yes" if case_is_right else "NO"
        cells = [case.name, 1e6 * seconds, bandwidth / 1e9, share, *products, error, verdict]
        rows.append(cells)
        if case.name.endswith(TARGET):
            text = f"{title}: {case.name} at {_MIN_SHARE:.0%} of the copy bandwidth"
            report.target(text, f"{share:.1%}", share >= _MIN_SHARE)
    report.table(title, [title, *_COLUMNS], rows)
    return is_right


@torch.inference_mode()
def main() -> int:
    options = parser(__doc__)
    options.add_argument("--kernels", default="auto", choices=["auto", "triton", "reference"])
    args = options.parse_args()
    device = resolve_device(args.device)
    is_small = args.quick or device.type == "cpu"
    # How keys and values lie in pages is a set's own affair: the CPU's cannot be compared here.
    name = "reference" if device.type == "cpu" and args.kernels == "auto" else args.kernels
    kernels = select(device, torch.bfloat16, name)
    report = Report("kernels", args.out, find_environment(device))
    ceilings = Ceilings.measure(device, is_small)
    report.note(f"{kernels.describe()}, bfloat16")
    report.note(f"copy bandwidth {ceilings.bandwidth / 1e9:,.0f} GB/s")
    report.note(f"matrix rate {ceilings.rate / 1e12:,.4g} TFLOP/s")

    maker = CaseMaker(kernels, device, torch.bfloat16, 0 if is_small else _POOL_NUMBERS)
    layers = QUICK_LAYERS if is_small else LAYERS
    results = [
        report_cases(report, title, maker.cases(layer), device, ceilings)
        for title, layer in layers.items()
    ]
    if name == "triton" or device.type == "cuda":
        draw_cases = importlib.import_module("benchmarks.gpu.draw_cases").draw_cases
        sizes = (700, (3,)) if is_small else (128_256, (1, 64, 256))
        results.append(report_cases(report, "draw", draw_cases(*sizes, device), device, ceilings))
    report.target("kernels right", "all" if all(results) else "not all", all(results))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
