"""Summarize the text on standard input, a part at a time.

python summarize.py < ../architecture.md
"""

import sys

from octavo_client import Client

# The chat template of SmolLM2, the built-in model, and of Qwen; other models have others.
PROMPT = (
    "<|im_start|>user\nSay in one sentence what this text is about.\n\n{text}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
PART = 6000  # characters: some 1,500 tokens of English

text = sys.stdin.read()
with Client() as client:
    model = client.models.list().data[0].id
    for start in range(0, len(text), PART):
        prompt = PROMPT.format(text=text[start : start + PART])
        request = {"model": model, "prompt": prompt, "max_tokens": 60, "temperature": 0}
        with client.completions.stream(**request, stop="<|im_end|>") as stream:
            for delta in stream.text_deltas:
                print(delta, end="", flush=True)
        print()
