"""What a benchmark asks: prompts of random token ids, or pieces of a text.

Everything is drawn from the generator passed in: the same seed gives the same prompts. Knows
neither HTTP nor the server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from random import Random

# Special tokens have the first ids in most vocabularies; random prompts leave them out.
FIRST_ID = 100


class DatasetError(ValueError):
    """The data set cannot be made; one line for the user."""


@dataclass(frozen=True)
class Prompt:
    """One request: what to continue and by how many tokens. `num_tokens` is None for text."""

    content: str | list[int]
    num_tokens: int | None
    max_tokens: int


@dataclass(frozen=True)
class Lengths:
    """A length, or with `spread` > 0 any from `mean * (1 - spread)` to `mean * (1 + spread)`."""

    mean: int
    spread: float = 0.0

    def draw(self, random: Random) -> int:
        """Each whole number of the range is equally likely; at least 1."""
        margin = int(self.mean * self.spread)
        return max(1, random.randint(self.mean - margin, self.mean + margin))


def random_prompts(
    count: int,
    random: Random,
    *,
    input_len: Lengths,
    output_len: Lengths,
    vocab_size: int,
    prefix_len: int = 0,
) -> list[Prompt]:
    """Prompts of random ids below `vocab_size`; the first `prefix_len` are the same in all.

    Without a prefix no prefix cache helps with them.
    """
    ids = range(min(FIRST_ID, vocab_size // 2), vocab_size)
    prefix = random.choices(ids, k=prefix_len)
    prompts = []
    for _ in range(count):
        token_ids = prefix + random.choices(ids, k=input_len.draw(random))
        prompts.append(Prompt(token_ids, len(token_ids), output_len.draw(random)))
    return prompts


def text_prompts(
    count: int, random: Random, *, path: Path, input_len: Lengths, output_len: Lengths
) -> list[Prompt]:
    """Pieces of the text in `path`, one after the other from a random word on, then around again.

    `input_len` counts words here: how many tokens they are, only the server knows. Raises
    DatasetError for a file that is no text.
    """
    try:
        words = re.findall(r"\S+\s*", path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    if not words:
        raise DatasetError(f"there is no text in {path}")
    at = random.randrange(len(words))
    prompts = []
    for _ in range(count):
        num_words = input_len.draw(random)
        piece = [words[(at + i) % len(words)] for i in range(num_words)]
        at += num_words
        prompts.append(Prompt("".join(piece).rstrip(), None, output_len.draw(random)))
    return prompts
