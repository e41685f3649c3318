"""Evaluate a model by the probabilities it gives to text that is there already.

The perplexity of the text on standard input, then the accuracy on a few questions: the choice whose
text the model finds likeliest is its answer.

python evaluate.py < ../architecture.md
"""

import math
import sys

from octavo_client import Client

QUESTIONS = [
    ("The capital of France is", [" Paris", " Berlin", " Madrid"]),
    ("The opposite of hot is", [" cold", " warm", " red"]),
    ("Two plus two is", [" four", " seven", " nine"]),
    ("Water freezes into", [" ice", " steam", " sand"]),
]


def logprobs(client, model, text):
    """The log-probability of each token of a text but the first, which has none; and offsets."""
    scored = client.completions.create(
        model=model, prompt=text, max_tokens=0, echo=True, logprobs=0
    )
    found = scored.choices[0].logprobs
    return found.token_logprobs[1:], found.text_offset[1:]


with Client() as client:
    model = client.models.list().data[0].id

    scores, _ = logprobs(client, model, sys.stdin.read()[:8000])
    print(f"perplexity {math.exp(-sum(scores) / len(scores)):.2f} over {len(scores)} tokens")

    num_right = 0
    for question, choices in QUESTIONS:
        totals = []
        for choice in choices:
            scores, offsets = logprobs(client, model, question + choice)
            pairs = zip(scores, offsets, strict=True)
            totals.append(sum(score for score, offset in pairs if offset >= len(question)))
        best = choices[totals.index(max(totals))]
        num_right += best == choices[0]
        print(f"{question}{best}")
    print(f"accuracy {num_right / len(QUESTIONS):.0%}")
