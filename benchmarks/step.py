"""Times one decode step of the model alone (no sampling, no scheduler) and prints a table.

    python benchmarks/step.py MODEL [--dtype bfloat16] [--context 256] [--batch 1 16 32] [--dummy]

MODEL is a .gguf file or a Hugging Face folder. The quickest of the repeats is the least disturbed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from engine.attention import Span, StepLayout
from engine.checkpoint import open_checkpoint
from engine.config import EngineConfig
from engine.device import resolve_target
from engine.kernels import select
from engine.kv_cache import KVCache
from engine.models import build_model
from engine.weights import load_random_weights, load_weights

BLOCK_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--kernels", default="auto", choices=["auto", "reference", "cpu"])
    parser.add_argument("--quantization", default="auto", choices=["auto", "none", "int8", "int4"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 32])
    parser.add_argument("--chunk", type=int, default=1, help="tokens per row: 1 is decoding")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--dummy", action="store_true", help="random weights, config only")
    parser.add_argument("--profile", action="store_true", help="print torch's profile as well")
    args = parser.parse_args()

    target = resolve_target(
        EngineConfig(str(args.model), args.device, args.dtype, num_threads=args.threads)
    )
    torch.set_num_threads(target.num_threads)
    device, dtype = target.device, target.dtype
    checkpoint = open_checkpoint(args.model, require_weights=not args.dummy)
    config = checkpoint.config
    kernels = select(device, dtype, args.kernels)
    with torch.inference_mode():
        model = build_model(config, kernels, device)
        if args.dummy:
            load_random_weights(model, device, dtype, lambda *_: None, args.quantization)
        else:
            load_weights(model, checkpoint, device, dtype, lambda *_: None, args.quantization)
        print(f"{checkpoint.name}, {target.reason}, {kernels.describe()}, context {args.context}")
        print(f"{'rows':>5} {'best ms':>9} {'median ms':>10} {'tok/s':>8}")
        for num_rows in args.batch:
            max_blocks = -(-args.context // BLOCK_SIZE)
            num_blocks = num_rows * max_blocks
            kv_cache = KVCache(config, num_blocks, BLOCK_SIZE, device, dtype)
            for layer in kv_cache.layers:
                layer.normal_()  # memory that was never written is read faster than real pages
            tables = torch.randperm(num_blocks).view(num_rows, max_blocks).int().to(device)
            start = args.context - args.chunk
            spans = [Span(row, row * args.chunk, args.chunk, start) for row in range(num_rows)]
            layout = StepLayout(
                spans=spans,
                rows=torch.arange(num_rows, device=device).repeat_interleave(args.chunk),
                positions=torch.arange(start, args.context, device=device).repeat(num_rows),
                block_tables=tables,
                blank_block=kv_cache.blank_block,
                block_size=BLOCK_SIZE,
                num_heads=config.num_heads,
                num_kv_heads=config.num_kv_heads,
                head_dim=config.head_dim,
            )
            token_ids = torch.randint(config.vocab_size, (num_rows * args.chunk,), device=device)
            last = torch.tensor([s.first_token + args.chunk - 1 for s in spans], device=device)

            def step() -> None:
                plan = kernels.plan(layout)  # noqa: B023
                hidden = model.forward(token_ids, plan, kv_cache)  # noqa: B023
                model.compute_logits(hidden[last]).argmax(-1).tolist()  # noqa: B023

            step()
            times = []
            for _ in range(args.repeats):
                started = time.perf_counter()
                step()
                times.append((time.perf_counter() - started) * 1e3)
            times.sort()
            rate = num_rows * args.chunk / times[0] * 1e3
            print(f"{num_rows:5} {times[0]:9.2f} {times[len(times) // 2]:10.2f} {rate:8.0f}")
            if args.profile:
                with torch.profiler.profile() as profile:
                    for _ in range(5):
                        step()
                print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=22))


if __name__ == "__main__":
    main()
