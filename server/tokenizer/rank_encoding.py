"""Byte-pair encoding on `tiktoken`: a text in words, each merged by the ranks of its parts.

Knows nothing of ids, names or files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tiktoken import Encoding
from tokenizers import Regex, pre_tokenizers

# Longer runs of white space are cut: tiktoken's matcher keeps a stack entry for each character of
# one and panics, with what `except Exception` does not catch, at a million.
_MAX_WHITE_SPACE = 1 << 16
_LONG_WHITE_SPACE = re.compile(rf"(?<!\s)\s{{{_MAX_WHITE_SPACE + 1},}}")
_WHOLE = r"(?s:.+)"


class RankEncoding:
    """`splits` cut a text into words, one after the other, each the words of the one before it.

    A single one in which every character belongs to a word is tiktoken's own affair. With several,
    what none of them matches is a word as well. `ranks` must have all 256 bytes.
    """

    def __init__(self, ranks: Mapping[bytes, int], splits: Sequence[str]) -> None:
        pattern = splits[0] if len(splits) == 1 else _WHOLE
        self._encoding = Encoding(
            "ranks", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={}
        )
        self._splitter = (
            None
            if len(splits) == 1
            else pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(split), "isolated") for split in splits]
            )
        )

    def encode(self, text: str) -> Iterator[int]:
        """The ranks of `text`, which has no lone surrogates."""
        for part in _cut_white_space(text):
            if self._splitter is None:
                yield from self._encoding.encode_ordinary(part)
            else:
                for word, _ in self._splitter.pre_tokenize_str(part):
                    yield from self._encoding.encode_ordinary(word)


def _cut_white_space(text: str) -> Iterator[str]:
    """`text` in parts, none of which has a run of white space that tiktoken could not take."""
    begin = 0
    if len(text) > _MAX_WHITE_SPACE:
        for run in _LONG_WHITE_SPACE.finditer(text):
            for end in range(run.start() + _MAX_WHITE_SPACE, run.end(), _MAX_WHITE_SPACE):
                yield text[begin:end]
                begin = end
    yield text[begin:]
