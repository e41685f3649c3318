"""Complete each line of a file, many at a time, and write a JSON object for each.

python batch.py prompts.txt answers.jsonl
"""

import json
import sys
from pathlib import Path

from octavo_client import Client

source, target = map(Path, sys.argv[1:3])
prompts = [line for line in source.read_text().splitlines() if line]
with Client(max_retries=5) as client:
    model = client.models.list().data[0].id
    results = client.completions.create_many(
        prompts, model=model, max_tokens=32, concurrency=8, progress=True
    )
with target.open("w") as file:
    for result in results:
        row = {"prompt": result.prompt}
        # One prompt that fails does not cost the others.
        if result.error is None:
            row |= {"text": result.text, "tokens": result.completion.usage.completion_tokens}
        else:
            row["error"] = str(result.error)
        file.write(json.dumps(row) + "\n")
num_failed = sum(result.error is not None for result in results)
print(f"{len(results)} prompts, {num_failed} failed")
sys.exit(1 if num_failed else 0)
