"""Octavo's engine with streams that begin and end together: speed, the share of the bandwidth, how
busy the GPU is.

    python -m benchmarks.gpu.streams [--out FOLDER] [--quick] [--streams 1 8 32 128]
                                     [--input-len 1000] [--output-len 1000] [--max-launches N]

Llama-3.1-8B's shape in bfloat16 with made-up weights, greedy. ITL is what a caller of the engine
sees, without HTTP. "Busy" is the time with any work on the GPU in steps of steady decoding, from
torch's profiler, over the time that such a step takes without it.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from benchmarks.gpu.ceilings import ModelBytes
from benchmarks.gpu.driving import Engine, Setup
from benchmarks.gpu.environment import find_environment, resolve_device
from benchmarks.gpu.options import TimeLeft, add_engine_options, parser
from benchmarks.gpu.report import PEERS, Cell, Figure, Report, ratio
from benchmarks.gpu.shapes import write_config
from benchmarks.gpu.timing import Trace, ceiling_bandwidth, trace_gpu
from benchmarks.gpu.workloads import equal_streams, streams_case

_MIN_SHARE = 0.80
_MIN_BUSY = 0.95
_SETTLING_STEPS = 8


@dataclass(frozen=True)
class Steady:
    """Steps of decoding in the middle of `num_streams` streams: seconds of one, and what the GPU
    did in one of them (None without a GPU)."""

    step_seconds: float
    busy_seconds: float | None
    num_kernels: float | None
    trace: Trace | None

    @property
    def busy(self) -> float | None:
        return ratio(self.busy_seconds, self.step_seconds)


def measure_steady(
    engine: Engine, num_streams: int, input_len: int, num_steps: int, seed: int
) -> Steady:
    """Decode with all streams for `num_steps` by the clock, then as many under the profiler."""
    output_len = 2 * num_steps + 2 * _SETTLING_STEPS + num_streams + 64
    jobs = equal_streams(num_streams, input_len, output_len, engine.info.vocab_size, seed)
    request_ids = engine.add(jobs, 0.0)
    begun: set[str] = set()
    while len(begun) < num_streams:
        begun.update(output.request_id for output in engine.core.step())
    for _ in range(_SETTLING_STEPS):
        engine.core.step()

    def work() -> None:
        for _ in range(num_steps):
            assert len(engine.core.step()) == num_streams, "not all streams decode"

    started = time.perf_counter()
    work()
    step_seconds = (time.perf_counter() - started) / num_steps
    trace = trace_gpu(work) if engine.info.device.startswith("cuda") else None
    engine.abort(request_ids)
    if trace is None:
        return Steady(step_seconds, None, None, None)
    busy, kernels = trace.busy_seconds / num_steps, trace.num_kernels / num_steps
    return Steady(step_seconds, busy, kernels, trace)


@dataclass(frozen=True)
class Lengths:
    input_len: int
    output_len: int
    steady_steps: int

    def case(self, num_streams: int) -> str:
        return streams_case(num_streams, self.input_len, self.output_len)


def measure_case(
    engine: Engine,
    model: ModelBytes,
    bandwidth: float,
    num_streams: int,
    lengths: Lengths,
    limit_s: float,
) -> tuple[Figure, Steady]:
    """The whole of `num_streams`, then the middle of as many others."""
    vocab_size = engine.info.vocab_size
    jobs = equal_streams(
        num_streams, lengths.input_len, lengths.output_len, vocab_size, seed=2 * num_streams
    )
    run = engine.run(jobs, 0.0, limit_s)
    steady = measure_steady(
        engine, num_streams, lengths.input_len, lengths.steady_steps, seed=2 * num_streams + 1
    )
    # The steps of `measure_steady` see a little more than the prompt.
    context = lengths.input_len + _SETTLING_STEPS + lengths.steady_steps / 2
    ceiling = model.step_seconds(num_streams, context, bandwidth)
    waits = run.intervals()
    values = {
        "output_rate": run.output_rate,
        "steady_rate": run.steady_rate(),
        "itl_p50_ms": 1e3 * median(waits) if waits else None,
        "itl_p99_ms": 1e3 * quantiles(waits, n=100)[98] if len(waits) > 1 else None,
        "step_ms": 1e3 * steady.step_seconds,
        "ceiling_step_ms": 1e3 * ceiling,
        "share": ceiling / steady.step_seconds,
        "busy": steady.busy,
        "kernels_per_step": steady.num_kernels,
    }
    known = {name: value for name, value in values.items() if value is not None}
    note = "cut off" if run.is_cut_off else ""
    return Figure("octavo", lengths.case(num_streams), known, note), steady


_COLUMNS = {
    "output_rate": "output tok/s",
    "steady_rate": "steady tok/s",
    "itl_p50_ms": "ITL p50 ms",
    "itl_p99_ms": "p99 ms",
    "step_ms": "step ms",
    "ceiling_step_ms": "at best ms",
    "share": "share",
    "busy": "busy",
    "kernels_per_step": "kernels",
}


def main() -> None:
    options = parser(__doc__)
    add_engine_options(options)
    options.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128])
    options.add_argument("--input-len", type=int, default=1000)
    options.add_argument("--output-len", type=int, default=1000)
    options.add_argument("--steady-steps", type=int, default=50)
    args = options.parse_args()
    if args.quick:
        args.streams, args.input_len, args.output_len, args.steady_steps = [1, 3], 20, 8, 4
    lengths = Lengths(args.input_len, args.output_len, args.steady_steps)
    device = resolve_device(args.device)
    report = Report("streams", args.out, find_environment(device))
    shape = "llama-tiny" if args.quick else "llama-3.1-8b"
    bandwidth = ceiling_bandwidth(device, args.quick)
    with tempfile.TemporaryDirectory() as folder:
        path = write_config(shape, Path(folder))
        model = ModelBytes.of_folder(path)
        setup = Setup(
            device=device,
            dtype=args.dtype,
            max_num_seqs=max(args.streams),
            max_model_len=4096,
            max_launches=args.max_launches,
            kv_cache_memory=1 << 24 if args.quick else None,
        )
        engine = Engine(path, setup)
    report.note(f"{shape}: {engine.describe()}")
    report.note(f"copy bandwidth {bandwidth / 1e9:,.0f} GB/s; {model.read / 1e9:.4g} GB a step")
    time_left = TimeLeft(args.limit_s)
    warmup = equal_streams(max(args.streams), args.input_len, 8, engine.info.vocab_size, seed=1)
    engine.run(warmup, 0.0, time_left.share(len(args.streams)))

    cases: dict[int, tuple[Figure, Steady]] = {}
    for i, num_streams in enumerate(args.streams):
        limit_s = 0.8 * time_left.share(len(args.streams) - i)  # the rest is for the steady steps
        cases[num_streams] = measure_case(engine, model, bandwidth, num_streams, lengths, limit_s)
        report.figure(cases[num_streams][0])
    rows: list[list[Cell]] = [
        [num_streams, *(figure.values.get(name) for name in _COLUMNS), figure.note]
        for num_streams, (figure, _) in cases.items()
    ]
    title = f"{args.input_len} tokens in, {args.output_len} out; "
    title += "share of the bandwidth and busy: of a step of steady decoding"
    report.table(title, ["streams", *_COLUMNS.values(), "note"], rows)
    print_profiles(report, {n: steady for n, (_, steady) in cases.items()}, args.steady_steps)
    print_ratios(report, {n: lengths.case(n) for n in args.streams})
    if device.type == "cuda" and not args.quick:
        judge(report, {n: steady for n, (_, steady) in cases.items()}, bandwidth, model)


def print_profiles(report: Report, cases: dict[int, Steady], num_steps: int) -> None:
    for num_streams, steady in cases.items():
        if steady.trace is not None:
            longest = steady.trace.longest(10)
            kernels = [[name[:90], 1e3 * seconds / num_steps] for name, seconds in longest]
            report.table(f"{num_streams} streams: kernels", ["kernel", "ms a step"], kernels)


def print_ratios(report: Report, cases: dict[int, str]) -> None:
    rows: list[list[Cell]] = []
    for num_streams, case in cases.items():
        own = report.rate_of("octavo", case)
        for peer in PEERS:
            theirs = report.rate_of(peer, case)
            if theirs is not None:
                rows.append([f"{num_streams} {peer}", own, theirs, ratio(own, theirs)])
    if rows:
        report.table("output tok/s against peers", ["streams", "octavo", "peer", "ratio"], rows)


def judge(report: Report, cases: dict[int, Steady], bandwidth: float, model: ModelBytes) -> None:
    if 1 in cases:
        # As the target is told: all weights once for each token, keys and values left out.
        most, rate = bandwidth / model.weights, 1 / cases[1].step_seconds
        text = f"one stream at {_MIN_SHARE:.0%} of {most:,.0f} tok/s"
        report.target(text, f"{rate:,.0f} tok/s", rate >= _MIN_SHARE * most)
    for num_streams, steady in cases.items():
        if steady.busy is not None:
            text = f"GPU busy {_MIN_BUSY:.0%} with {num_streams} streams"
            report.target(text, f"{steady.busy:.1%}", steady.busy >= _MIN_BUSY)


if __name__ == "__main__":
    main()
