"""What may be written to a terminal: a model's text is a stranger's and must not steer it."""

from __future__ import annotations

import re

# Controls but newline and tab, and what changes the direction of text.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """`text` without line breaks, as errors are told that may have come from a server."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """`text` with a visible stand-in for each character that a terminal would act upon."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)
