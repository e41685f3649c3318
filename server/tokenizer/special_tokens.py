"""Tokens that stand in a text by their names: found, the longest first, before the rest is encoded.

What a vocabulary encodes in its own way is the text between them.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby

from engine import CheckpointError

# Real ones have a few dozen characters. The pattern is nested as deep as the longest is long.
_MAX_NAME_LENGTH = 300


class SpecialTokens:
    """Ids by the text that is parsed as a token of its own; those in `strip_after` swallow ASCII
    white space that follows. Raises CheckpointError for a text that is absurdly long."""

    def __init__(self, ids: Mapping[str, int], strip_after: Collection[str] = ()) -> None:
        longest = max(map(len, ids), default=0)
        if longest > _MAX_NAME_LENGTH:
            raise CheckpointError(
                f"the vocabulary has a special token of {longest} characters; at most "
                f"{_MAX_NAME_LENGTH} are allowed"
            )
        self._ids = {name: token_id for name, token_id in ids.items() if name}
        self._strip_after = strip_after
        self._pattern = re.compile(f"({any_of(self._ids) or '(?!)'})")

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The parts of `text` in order, none of them empty; a special one has an id."""
        strips = False
        for i, part in enumerate(self._pattern.split(text)):
            if i % 2:
                yield part, self._ids[part]
                strips = part in self._strip_after
            elif rest := part.lstrip(string.whitespace) if strips else part:
                yield rest, None


def any_of(words: Collection[str]) -> str:
    """A pattern for the longest of `words`: a trie, so that no text makes it try one by one."""
    alternatives = [
        re.escape(char) + any_of([word[1:] for word in group])
        for char, group in groupby(sorted(filter(None, words)), key=lambda word: word[0])
    ]
    if len(alternatives) <= 1 and "" not in words:
        return "".join(alternatives)
    return f"(?:{'|'.join(alternatives)}){'?' if '' in words else ''}" if alternatives else ""
