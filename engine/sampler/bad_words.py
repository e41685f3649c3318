"""Token sequences that must not come up in an output, in the form that a launch matches them in.

A word of one token is never drawn. Of a longer one, the last token is not drawn where the tokens
drawn just before are the others. Prompt tokens do not count. Plain numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.sampler.transfer import IntArray


class BadWords(NamedTuple):
    """The distinct bad words of one row.

    `last_ids` [num_words]. `earlier` [3, n] has a column for each token before the last of its
    word: the word's number, the token id, and how far before the draw it lies (1 is just before).
    """

    last_ids: IntArray
    earlier: IntArray

    @classmethod
    def of(cls, words: Sequence[Sequence[int]], vocab_size: int) -> BadWords:
        """Words with a token that the model does not have are left out: they cannot come up."""
        usable = [
            word
            for word in dict.fromkeys(map(tuple, words))
            if word and all(0 <= token_id < vocab_size for token_id in word)
        ]
        earlier = [
            (number, token_id, len(word) - 1 - i)
            for number, word in enumerate(usable)
            for i, token_id in enumerate(word[:-1])
        ]
        return cls(
            np.array([word[-1] for word in usable], dtype=np.int64),
            np.array(earlier, dtype=np.int64).reshape(-1, 3).T,
        )

    def lookups(self, position: int, num_prompt_tokens: int) -> tuple[IntArray, IntArray]:
        """Where a draw at `position` must look for `earlier`, and the ids that match there.

        What would lie in the prompt matches no id: -1.
        """
        places = position - self.earlier[2]
        expected = np.where(places >= num_prompt_tokens, self.earlier[1], -1)
        return np.maximum(places, 0), expected
