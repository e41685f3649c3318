"""Filling a gap: how a vocabulary marks what comes before it and what comes after it.

A model that was trained for it continues `prefix marker, text before, suffix marker, text after,
middle marker` with what belongs between (Bavarian et al. 2022, order "PSM"). Each family has names
of its own for the markers; a vocabulary without them cannot do it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class _Family(NamedTuple):
    """The names of the markers, and of tokens that some models end a filling with."""

    prefix: str
    suffix: str
    middle: str
    ends: tuple[str, ...] = ()


_FAMILIES = (
    # Qwen2.5-Coder, CodeGemma
    _Family(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    ),
    # StarCoder, Granite
    _Family("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<fim_pad>", "<file_sep>")),
    # SantaCoder
    _Family("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ("<fim-pad>",)),
    # DeepSeek-Coder: begin, hole, end
    _Family(
        "<\uff5cfim\u2581begin\uff5c>",
        "<\uff5cfim\u2581hole\uff5c>",
        "<\uff5cfim\u2581end\uff5c>",
    ),
    # Code Llama
    _Family("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", ("\u2581<EOT>",)),
)


@dataclass(frozen=True, slots=True)
class FillInMiddle:
    """Token ids of the three markers, and those that end a filling besides the end of a text."""

    prefix_id: int
    suffix_id: int
    middle_id: int
    stop_token_ids: tuple[int, ...]

    def join(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """The prompt whose continuation belongs between `before` and `after`."""
        return [self.prefix_id, *before, self.suffix_id, *after, self.middle_id]


def find_markers(token_ids: Mapping[str, int]) -> FillInMiddle | None:
    """The markers among a vocabulary's added tokens; None if it has not all three."""
    for family in _FAMILIES:
        if {family.prefix, family.suffix, family.middle} <= token_ids.keys():
            return FillInMiddle(
                token_ids[family.prefix],
                token_ids[family.suffix],
                token_ids[family.middle],
                tuple(token_ids[end] for end in family.ends if end in token_ids),
            )
    return None
