"""Guesses at the next tokens of one sequence, from what followed the same words before.

Prompt lookup (Saxena, 2023): text repeats itself, so the tokens that followed the last few tokens
earlier are likely to follow again. A guess changes no output: it is computed together with the
token before it and kept only if it is what would have been drawn. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.request import SamplingParams

# Tokens that must have occurred in this order before; the longer match wins.
_LENGTHS = (4, 2)
# Weight of the newest guess in the running share of right ones.
_WEIGHT = 0.125
# Of a prompt, the last tokens only: what is looked up is mostly near, and each costs a microsecond.
MAX_LOOKED_AT = 4096


def allows_drafts(sampling: SamplingParams) -> bool:
    """Whether several tokens may be drawn at a time: no draw depends on what was drawn before."""
    return (
        sampling.repetition_penalty == 1.0
        and sampling.presence_penalty == 0.0
        and sampling.frequency_penalty == 0.0
        and not sampling.bad_words
    )


class Drafter:
    """Learns from every token of a sequence, in order. `accuracy` is the share of right guesses of
    late, also of those that nobody asked for."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.accuracy = 0.0
        self._next: dict[tuple[int, ...], int] = {}
        self._last: tuple[int, ...] = ()

    def extend(self, token_ids: Iterable[int]) -> None:
        """Take in the next tokens."""
        for token_id in token_ids:
            guess = self._guess(self._last)
            if guess is not None:
                self.accuracy += _WEIGHT * ((guess == token_id) - self.accuracy)
            for length in _LENGTHS:
                if len(self._last) >= length:
                    self._next[self._last[-length:]] = token_id
            self._last = (*self._last, token_id)[-_LENGTHS[0] :]
            self.num_tokens += 1

    def propose(self, max_drafts: int, min_chance: float) -> list[int]:
        """The next tokens as far as each is right with a chance above `min_chance`."""
        drafts: list[int] = []
        last, chance = self._last, self.accuracy
        while len(drafts) < max_drafts and chance > min_chance:
            guess = self._guess(last)
            if guess is None:
                break
            drafts.append(guess)
            last = (*last, guess)[-_LENGTHS[0] :]
            chance *= self.accuracy
        return drafts

    def _guess(self, last: tuple[int, ...]) -> int | None:
        for length in _LENGTHS:
            guess = self._next.get(last[-length:]) if len(last) >= length else None
            if guess is not None:
                return guess
        return None
