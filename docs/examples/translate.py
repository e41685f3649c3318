"""Translate each argument into French, by the example of a few translations.

python translate.py "The book is on the table." "Good morning!"
"""

import sys

from octavo_client import Client

EXAMPLES = """\
English: Where is the station?
French: Où est la gare ?
English: I would like a coffee, please.
French: Je voudrais un café, s'il vous plaît.
English: The house is big.
French: La maison est grande.
"""

lines = sys.argv[1:]
prompts = [f"{EXAMPLES}English: {line}\nFrench:" for line in lines]
with Client() as client:
    model = client.models.list().data[0].id
    # All lines at once; the server computes the examples, which they share, only once.
    results = client.completions.create_many(
        prompts, model=model, max_tokens=60, temperature=0, stop="\n"
    )
for line, result in zip(lines, results, strict=True):
    print(f"{line}\t{result.text.strip()}")
