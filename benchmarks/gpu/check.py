"""Correctness before speed: kernels, tokens and draws. Exit code 1 when anything is wrong.

    python -m benchmarks.gpu.check [--out FOLDER] [--quick] [--only kernels tokens sampler]

Kernels: the set that the engine chooses, against float64, in bfloat16 and float32. Tokens: the
engine against transformers on small random models of Llama's and Qwen3's structure, launches plain
and overlapped. Draws: the sampler on this device against the same on the CPU.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
import transformers

from benchmarks.gpu.check_kernels import Error, check_kernels, make_sizes
from benchmarks.gpu.check_sampler import check_sampler
from benchmarks.gpu.check_tokens import check_tokens, save_model
from benchmarks.gpu.environment import find_environment, resolve_device
from benchmarks.gpu.options import parser
from benchmarks.gpu.report import Cell, Report
from engine.kernels import select

_PARTS = ("kernels", "tokens", "sampler")
# (heads, KV heads, head_dim): Llama-3.1-8B, Qwen3-0.6B, SmolLM2-135M, one KV head for each head.
_HEADS = ((32, 8, 128), (16, 8, 128), (9, 3, 64), (4, 4, 64))
_QUICK_HEADS = ((4, 2, 16), (3, 3, 32))


def report_kernels(report: Report, device: torch.device, is_quick: bool) -> bool:
    rows: list[list[Cell]] = []
    is_right = True
    for dtype in (torch.bfloat16, torch.float32):
        # How keys and values lie in a page is a set's own affair. Those for GPUs and the reference
        # lay them out alike; the CPU's have their own tests.
        kernels = select(device, dtype, "reference" if device.type == "cpu" else "auto")
        reference = select(device, dtype, "reference")
        report.note(f"{dtype}: {kernels.describe()} against float64 and {reference.describe()}")
        for heads in _QUICK_HEADS if is_quick else _HEADS:
            errors: list[Error] = []
            with torch.inference_mode():
                for error in check_kernels(
                    kernels, reference, make_sizes(*heads, is_quick), device, dtype
                ):
                    errors.append(error)
                    if not error.is_right:
                        report.note(f"WRONG: {dtype} {heads}: {error}")
            wrong = sum(not error.is_right for error in errors)
            is_right &= not wrong
            for kind in dict.fromkeys(e.operation.split()[0].rstrip(",") for e in errors):
                worst = max(
                    (e for e in errors if e.operation.startswith(kind)), key=lambda e: e.largest
                )
                rows.append(
                    [
                        f"{str(dtype).removeprefix('torch.')} {'/'.join(map(str, heads))} {kind}",
                        worst.largest / worst.epsilon,
                        worst.reference_largest / worst.epsilon,
                        worst.operation,
                        "yes" if all(e.is_right for e in errors if e.operation.startswith(kind))
                        else "NO",
                    ]
                )  # fmt: skip
    columns = ["kernel", "worst error / eps", "reference's", "where", "right"]
    report.table("kernels against float64: largest error over the largest number", columns, rows)
    return is_right


def report_tokens(report: Report, device: torch.device, is_quick: bool) -> bool:
    rows: list[list[Cell]] = []
    is_right = True
    for shape in ("llama-tiny", "qwen3-tiny") if is_quick else ("llama-small", "qwen3-small"):
        with tempfile.TemporaryDirectory() as folder:
            model = save_model(shape, Path(folder))
            for dtype in ("float32", "bfloat16"):
                for found in check_tokens(model, shape, device, dtype, is_quick):
                    verdict = found.verdict
                    is_right &= verdict.is_right
                    rows.append(
                        [
                            f"{shape} {dtype}: {found.name}",
                            verdict.num_tokens,
                            verdict.num_best,
                            verdict.worst,
                            verdict.tolerance,
                            f"{found.num_equal}/{found.num_answers}",
                            found.num_preemptions,
                            "yes" if verdict.is_right else "NO",
                        ]
                    )
    columns = ["model", "tokens", "the oracle's best", "worst regret", "allowed",
               "answers as plain", "preemptions", "right"]  # fmt: skip
    report.table("tokens against transformers", columns, rows)
    return is_right


def report_sampler(report: Report, device: torch.device, is_quick: bool) -> bool:
    sizes = (300, 11, 3) if is_quick else (128_256, 64, 10)
    draws = check_sampler(device, *sizes)
    rows = [[d.name, d.num_draws, d.num_different, "yes" if d.is_right else "NO"] for d in draws]
    report.table("draws against the CPU's", ["parameters", "draws", "different", "right"], rows)
    return all(d.is_right for d in draws)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", default=_PARTS, choices=_PARTS)
    args = options.parse_args()
    device = resolve_device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = False  # the oracle's float32 is to be float32
    transformers.utils.logging.disable_progress_bar()
    report = Report("check", args.out, find_environment(device))
    checks = {"kernels": report_kernels, "tokens": report_tokens, "sampler": report_sampler}
    results = {name: checks[name](report, device, args.quick) for name in args.only}
    for name, is_right in results.items():
        report.target(f"{name} right", "all" if is_right else "not all", is_right)
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
