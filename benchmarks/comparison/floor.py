"""The floor: what `generate()` of transformers brings, without any server.

    python floor.py MODEL --threads 2 --streams 16 --input-len 128 --output-len 128

Runs in the peers' own environment and imports nothing of ours. All streams are one batch that
begins and ends together, greedy, of random ids. Prints one JSON object: seconds of the whole and
of the same with one token, which is the time to the first token.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM

FIRST_ID, VOCAB_SIZE = 100, 32000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--input-len", type=int, required=True)
    parser.add_argument("--output-len", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()

    def generate(num_tokens: int) -> float:
        """Seconds for `num_tokens` more of each stream."""
        ids = torch.randint(FIRST_ID, VOCAB_SIZE, (args.streams, args.input_len))
        started = time.perf_counter()
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
        )
        seconds = time.perf_counter() - started
        assert out.shape == (args.streams, args.input_len + num_tokens)
        return seconds

    generate(2)
    first = generate(1)
    print(json.dumps({"seconds": generate(args.output_len), "first_seconds": first}))


if __name__ == "__main__":
    main()
