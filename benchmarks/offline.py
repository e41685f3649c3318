"""Times the engine alone, without HTTP and in this process: tokens a second and time of a step.

    python benchmarks/offline.py [--model MODEL] [--streams 1 16 32] [--input-len 128]
                                 [--output-len 128] [--dtype bfloat16] [--dummy]

MODEL is what `octavo serve` takes: the built-in model, a .gguf file, a folder or a hub id. Prompts
are random ids, greedy, without end. Steps with prompts in them and steps of decoding are apart.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

from engine.checkpoint import BUILTIN_MODEL, default_cache_dir, resolve_model
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.request import Request, SamplingParams
from engine.runner import ModelRunner

# Special tokens have the first ids in most vocabularies; the prompts avoid them.
FIRST_ID = 100


@dataclass
class Times:
    """Seconds of each step: those that brought every stream its next token, and the others."""

    decoding: list[float] = field(default_factory=list)
    prompts: list[float] = field(default_factory=list)


def run(core: EngineCore, requests: list[Request]) -> tuple[Times, int]:
    """All `requests` at once, to their ends: the times of the steps and the tokens they brought."""
    for request in requests:
        core.add(request)
    times = Times()
    num_tokens = 0
    has_begun: set[str] = set()
    while core.has_work:
        started = time.perf_counter()
        outputs = core.step()
        seconds = time.perf_counter() - started
        num_tokens += sum(len(output.token_ids) for output in outputs)
        decodes = len(has_begun) == len(requests)
        (times.decoding if decodes else times.prompts).append(seconds)
        has_begun.update(output.request_id for output in outputs)
    return times, num_tokens


def make_requests(
    random: Random, num_streams: int, input_len: int, output_len: int, vocab_size: int
) -> list[Request]:
    sampling = SamplingParams(temperature=0.0, max_tokens=output_len)
    ids = range(min(FIRST_ID, vocab_size // 2), vocab_size)
    return [
        Request(f"r{random.getrandbits(64):x}", random.choices(ids, k=input_len), sampling)
        for _ in range(num_streams)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=BUILTIN_MODEL)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 32], help="at once")
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dummy", action="store_true", help="random weights, config only")
    args = parser.parse_args()

    path = resolve_model(
        args.model,
        cache_dir=default_cache_dir(),
        offline=False,
        on_progress=lambda phase, fraction: None,
    )
    longest = max(args.streams)
    config = EngineConfig(
        str(Path(path)),
        device=args.device,
        dtype=args.dtype,
        load_format="dummy" if args.dummy else "auto",
        max_num_seqs=longest,
        num_threads=args.threads,
    )
    runner = ModelRunner.load(config, lambda phase, fraction: None)
    core = EngineCore(runner, runner.scheduler_config)
    info = runner.info
    print(f"{args.model}: {info.device}, {info.dtype}, {info.kernels}")
    print(f"{args.input_len} tokens in, {args.output_len} out; a decoding step in ms: best, median")
    print("streams  output tok/s  total tok/s  steps    best  median  prompt steps  s in them")
    random = Random(0)  # noqa: S311
    for num_streams in args.streams:
        warmup = make_requests(random, num_streams, args.input_len, 4, info.vocab_size)
        run(core, warmup)
        requests = make_requests(
            random, num_streams, args.input_len, args.output_len, info.vocab_size
        )
        started = time.perf_counter()
        times, num_tokens = run(core, requests)
        seconds = time.perf_counter() - started
        decoding = sorted(1e3 * step for step in times.decoding) or [float("nan")]
        total = num_tokens + num_streams * args.input_len
        print(
            f"{num_streams:7} {num_tokens / seconds:13.1f} {total / seconds:12.1f}"
            f" {len(times.decoding) + len(times.prompts):6} {decoding[0]:7.2f}"
            f" {median(decoding):7.2f} {len(times.prompts):13} {sum(times.prompts):10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
