"""The same two workloads on one peer: transformers' continuous batching, or vLLM.

    python -m benchmarks.gpu.peers transformers|transformers-tuned|vllm [--out FOLDER] [--quick]
                  [--cases workload streams] [--streams 1 8 32 128] [--input-len 1000] ...

A peer that cannot be imported or fails is told of, and is no failure of this program. Ratios are to
what workload.py and streams.py left in the same folder.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from benchmarks.gpu.environment import find_environment, resolve_device
from benchmarks.gpu.options import TimeLeft, parser
from benchmarks.gpu.report import Cell, Figure, Report, ratio
from benchmarks.gpu.shapes import SHAPES, write_config
from benchmarks.gpu.workloads import (
    PUBLISHED,
    PUBLISHED_TEMPERATURE,
    Job,
    equal_streams,
    published_workload,
    small_workload,
    streams_case,
)

_WARMUP_LEN = 8


class Peer(Protocol):
    """An engine with a model in memory."""

    def ready(self, temperature: float) -> AbstractContextManager[None]:
        """Whatever it needs before its first request, at this temperature."""

    def run(self, jobs: list[Job], limit_s: float) -> tuple[int, float, bool]:
        """All jobs at once: (tokens of the answers that ended, seconds, whether all did)."""

    def describe(self) -> str:
        """How it is set, for the report; once it is ready."""


@dataclass(frozen=True)
class Case:
    """Sets of jobs that are asked one after the other, of one model at one temperature."""

    shape: str
    temperature: float
    jobs: dict[str, list[Job]]

    def vocab_size(self) -> int:
        return int(SHAPES[self.shape]["vocab_size"])


def cases(args: argparse.Namespace) -> Iterator[Case]:
    if "workload" in args.cases:
        shape = "qwen3-tiny" if args.quick else "qwen3-0.6b"
        small = small_workload(SHAPES[shape]["vocab_size"])
        jobs = small if args.quick else published_workload()
        yield Case(shape, PUBLISHED_TEMPERATURE, {PUBLISHED: jobs})
    if "streams" in args.cases:
        shape = "llama-tiny" if args.quick else "llama-3.1-8b"
        lengths = (args.input_len, args.output_len)
        vocab_size = SHAPES[shape]["vocab_size"]
        yield Case(
            shape,
            0.0,
            {
                streams_case(n, *lengths): equal_streams(n, *lengths, vocab_size, seed=2 * n)
                for n in args.streams
            },
        )


def load(engine: str, model: Path, device: torch.device, max_num_seqs: int, quick: bool) -> Peer:
    """Raises ImportError, and whatever the peer raises."""
    if engine == "vllm":
        peer: Peer = importlib.import_module("benchmarks.gpu.peer_vllm").Vllm(
            model, max_num_seqs, quick
        )
        return peer
    transformers = importlib.import_module("benchmarks.gpu.peer_transformers")
    peer = transformers.Transformers(model, device, engine == "transformers-tuned")
    return peer


def measure(
    case: Case,
    engine: str,
    device: torch.device,
    report: Report,
    time_left: TimeLeft,
    num_later: int,
    quick: bool,
) -> list[list[Cell]]:
    """A row for each set of jobs: tokens, seconds, rate, Octavo's rate, ratio, note."""
    rows: list[list[Cell]] = []
    name = engine.replace("-", " ")
    with tempfile.TemporaryDirectory() as folder:
        model = write_config(case.shape, Path(folder))
        most = max(len(jobs) for jobs in case.jobs.values())
        peer = load(engine, model, device, most, quick)
        with peer.ready(case.temperature):
            report.note(f"{name}, {case.shape}: {peer.describe()}")
            for i, (title, jobs) in enumerate(case.jobs.items()):
                warmup = [
                    Job(job.shifted(1, case.vocab_size()).prompt_token_ids, _WARMUP_LEN)
                    for job in jobs
                ]
                limit_s = time_left.share(len(case.jobs) - i + num_later)
                peer.run(warmup, limit_s)
                tokens, seconds, is_whole = peer.run(jobs, limit_s)
                own = report.rate_of("octavo", title)
                note = "" if is_whole else "cut off: answers that ended"
                rate = tokens / seconds
                rows.append([title, tokens, seconds, rate, own, ratio(own, rate), note])
                if is_whole:
                    values = {"output_rate": rate, "seconds": seconds, "tokens": float(tokens)}
                    report.figure(Figure(name, title, values))
                else:
                    break  # its thread still works on the others
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("engine", choices=["transformers", "transformers-tuned", "vllm"])
    options.add_argument(
        "--cases", nargs="+", default=["workload", "streams"], choices=["workload", "streams"]
    )
    options.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128])
    options.add_argument("--input-len", type=int, default=1000)
    options.add_argument("--output-len", type=int, default=1000)
    options.add_argument("--limit-s", type=float, default=380.0, help="of all; then cut off")
    args = options.parse_args()
    if args.quick:
        args.streams, args.input_len, args.output_len = [1, 3], 20, 8
    device = resolve_device(args.device)
    report = Report(f"peers-{args.engine}", args.out, find_environment(device))
    if args.engine == "transformers-tuned" and device.type != "cuda":
        report.note("CUDA graphs and asynchronous batching need a GPU: nothing to measure")
        return
    rows: list[list[Cell]] = []
    time_left = TimeLeft(args.limit_s)
    to_do = list(cases(args))
    for i, case in enumerate(to_do):
        num_later = sum(len(later.jobs) for later in to_do[i + 1 :])
        try:
            rows += measure(case, args.engine, device, report, time_left, num_later, args.quick)
        except ImportError as error:
            report.note(f"{args.engine} cannot be imported: {error}")
            break
        except Exception as error:  # a peer's failure is a result
            text = " ".join(str(error).split())[:300]
            report.note(f"{args.engine} failed with {case.shape}: {type(error).__name__}: {text}")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    columns = ["case", "tokens", "s", "output tok/s", "octavo tok/s", "octavo / it", "note"]
    report.table(args.engine, columns, rows)


if __name__ == "__main__":
    main()
