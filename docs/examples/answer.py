"""Answer a question from the text on standard input.

echo "Octavo was a cat. She lived in Lyon." | python answer.py "Where did Octavo live?"
"""

import math
import sys

from octavo_client import Client

PROMPT = "{text}\n\nQuestion: {question}\nAnswer (a few words from the text):"

prompt = PROMPT.format(text=sys.stdin.read().strip(), question=sys.argv[1])
with Client() as client:
    completion = client.completions.create(
        model=client.models.list().data[0].id,
        prompt=prompt,
        max_tokens=24,
        temperature=0,
        stop="\n",
        logprobs=0,
    )
(choice,) = completion.choices
scores = choice.logprobs.token_logprobs
sureness = math.exp(sum(scores) / len(scores)) if scores else 0.0
print(choice.text.strip())
print(f"(each token had a probability of about {sureness:.0%})")
