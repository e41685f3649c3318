"""How well a model predicts a text, by number format: what rounding its weights costs.

    python benchmarks/perplexity.py MODEL [--text FILE] [--window 512]

As llama.cpp's `llama-perplexity` counts: the text in windows that do not overlap, of each only the
second half scored, so that every scored token has half a window before it.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from engine import EngineConfig, Request, SamplingParams, open_checkpoint
from engine.core import EngineCore
from engine.runner import ModelRunner
from server.tokenizer import load_tokenizer

_PROSE = Path(__file__).parent.parent / "tests" / "data" / "prose.txt"
# The first one is what the others are compared with.
_FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16", "quantization": "none"},
    "as the file": {"dtype": "bfloat16", "quantization": "auto"},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
    "int4": {"dtype": "bfloat16", "quantization": "int4"},
}


def perplexity(runner: ModelRunner, token_ids: list[int], window: int) -> float:
    """e to the mean negative log-probability of the scored tokens."""
    core = EngineCore(runner, runner.scheduler_config)
    for first in range(0, len(token_ids) - window + 1, window):
        # Nothing is generated: the prompt's own log-probabilities are asked for.
        sampling = SamplingParams(max_tokens=0, prompt_logprobs=0)
        core.add(Request(str(first), token_ids[first : first + window], sampling))
    scored: list[float] = []
    while core.has_work:
        for output in core.step():
            assert output.error is None, output.error
            logprobs = (output.prompt_logprobs or [])[window // 2 + 1 :]
            scored += [entry.logprob for entry in logprobs if entry is not None]
    return math.exp(-sum(scored) / len(scored))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, default=_PROSE)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--formats", nargs="+", default=list(_FORMATS), choices=list(_FORMATS))
    args = parser.parse_args()

    tokenizer = load_tokenizer(open_checkpoint(args.model).tokenizer)
    token_ids = tokenizer.encode(args.text.read_text(encoding="utf-8"))
    print(f"{args.model.name}, {args.text.name}: {len(token_ids)} tokens")
    print(f"{'format':>12} {'perplexity':>11} {'to the first':>13} {'seconds':>8}  kernels")
    baseline = None
    for name in args.formats:
        config = EngineConfig(str(args.model), kv_cache_memory=256 << 20, **_FORMATS[name])
        runner = ModelRunner.load(config, lambda phase, fraction: None)
        started = time.monotonic()
        value = perplexity(runner, token_ids, args.window)
        baseline = baseline or value
        print(
            f"{name:>12} {value:11.4f} {value / baseline - 1:+13.2%} "
            f"{time.monotonic() - started:8.1f}  {runner.info.kernels}"
        )


if __name__ == "__main__":
    main()
