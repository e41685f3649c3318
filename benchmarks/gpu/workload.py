"""nano-vllm's published workload on Octavo's engine: output tokens a second.

    python -m benchmarks.gpu.workload [--out FOLDER] [--quick] [--rounds 2] [--max-launches N]

256 requests at once, prompt and output lengths uniform in 100..1024, random ids, temperature 0.6,
to full length; Qwen3-0.6B's shape with made-up weights. The first round warms up and is not told
of. Ratios are to what peers.py left in the same folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.gpu.ceilings import ModelBytes
from benchmarks.gpu.driving import Engine, Setup
from benchmarks.gpu.environment import find_environment, resolve_device
from benchmarks.gpu.options import TimeLeft, add_engine_options, parser
from benchmarks.gpu.report import PEERS, Figure, Report, ratio
from benchmarks.gpu.shapes import SHAPES, write_config
from benchmarks.gpu.timing import ceiling_bandwidth
from benchmarks.gpu.workloads import (
    PUBLISHED,
    PUBLISHED_TEMPERATURE,
    Job,
    published_workload,
    small_workload,
)

_MIN_RATE = 10_000
_MIN_RATIOS = {"transformers": 2.0, "transformers tuned": 2.0, "vllm": 1.0}


def least_seconds(jobs: list[Job], model: ModelBytes, bandwidth: float) -> float:
    """What reading alone takes, were all in one batch from the first step to their ends: weights
    once a step, keys and values of the streams that still run."""
    seconds = 0.0
    for step in range(1, max(job.output_len for job in jobs)):
        running = [job for job in jobs if job.output_len > step]
        context = sum(len(job.prompt_token_ids) + step for job in running) / len(running)
        seconds += model.step_seconds(len(running), context, bandwidth)
    return seconds


def main() -> None:
    options = parser(__doc__)
    add_engine_options(options)
    options.add_argument("--rounds", type=int, default=2, help="that count; all figures are told")
    args = options.parse_args()
    device = resolve_device(args.device)
    report = Report("workload", args.out, find_environment(device))
    shape = "qwen3-tiny" if args.quick else "qwen3-0.6b"
    jobs = small_workload(SHAPES[shape]["vocab_size"]) if args.quick else published_workload()
    num_tokens = sum(job.output_len for job in jobs)
    report.note(
        f"{shape}: {len(jobs)} requests, {sum(len(j.prompt_token_ids) for j in jobs)} tokens in, "
        f"{num_tokens} out"
    )

    bandwidth = ceiling_bandwidth(device, args.quick)
    with tempfile.TemporaryDirectory() as folder:
        path = write_config(shape, Path(folder))
        model = ModelBytes.of_folder(path)
        setup = Setup(
            device=device,
            dtype=args.dtype,
            max_num_seqs=len(jobs),
            max_model_len=4096,
            max_launches=args.max_launches,
            kv_cache_memory=1 << 24 if args.quick else None,
        )
        engine = Engine(path, setup)
    report.note(engine.describe())
    ceiling = num_tokens / least_seconds(jobs, model, bandwidth)

    rows = []
    time_left = TimeLeft(args.limit_s)
    for round_number in range(args.rounds + 1):
        # Other ids each time, and the same lengths: what the last round left helps nobody.
        shift = round_number * 7919
        shifted = [
            Job(
                [(i + shift) % engine.info.vocab_size for i in job.prompt_token_ids], job.output_len
            )
            for job in jobs
        ]
        limit_s = time_left.share(args.rounds + 1 - round_number)
        run = engine.run(shifted, PUBLISHED_TEMPERATURE, limit_s)
        note = "warm-up" if round_number == 0 else ""
        note = "; ".join(filter(None, [note, "cut off" if run.is_cut_off else ""]))
        rows.append([round_number, run.num_tokens, run.seconds, run.output_rate, note])
        if round_number == 0 and not run.is_cut_off:
            continue
        values = {"output_rate": run.output_rate, "seconds": run.seconds}
        report.figure(Figure("octavo", PUBLISHED, values | {"tokens": run.num_tokens}, note))
        if run.is_cut_off:
            break
    report.table("Octavo", ["round", "tokens", "s", "output tok/s", "note"], rows)

    rate = rows[-1][3]
    assert isinstance(rate, float)
    rates = {"bandwidth": ceiling} | {peer: report.rate_of(peer, PUBLISHED) for peer in PEERS}
    against = [[name, other, ratio(rate, other)] for name, other in rates.items()]
    report.table(f"{rate:,.0f} output tok/s against", ["what", "tok/s", "ratio"], against)
    is_real = device.type == "cuda" and not args.quick and not run.is_cut_off
    reached = rate >= _MIN_RATE if is_real else None
    report.target(f"{_MIN_RATE:,} output tok/s", f"{rate:,.0f}", reached)
    for peer, wanted in _MIN_RATIOS.items():
        measured = ratio(rate, rates[peer])
        if measured is not None:
            reached = measured >= wanted if is_real else None
            report.target(f"{wanted:g} times {peer}", f"{measured:.2f}", reached)


if __name__ == "__main__":
    main()
