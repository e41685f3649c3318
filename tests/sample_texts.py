"""A thousand texts to compare tokenizers on: real ones, and what a tokenizer may stumble over."""

from __future__ import annotations

import random
from pathlib import Path

PROSE = (Path(__file__).parent / "data" / "prose.txt").read_text(encoding="utf-8")

_WORDS = [
    *("don't", "WE'LL", "it's", "co-operate", "e.g.", "naïve", "café", "Straße", "x_1", "a\u0301"),
    *(
        "1234567",
        "3.14",
        "٣٤٥",
        "½",
        "Ⅷ",
        "²",
        "日本語",
        "한국어",
        "ไทย",
        "हिन्दी",
        "עברית",
        "🦉",
        "👩‍👩‍👧",
    ),
    *("€", "$5", "#tag", "://", "{}", "()", "!!!", "—", "…", "“quoted”", "`code`", "<b>", "C:\\x"),
    *("def f(x):", "return", "==", "camelCase", "SHOUT", "ＡＢ", "Ωmega", "ﬁ", "\u00ad", "\ufeff"),
]
_SPACES = [" ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u3000", ""]
_LETTERS = "aabbeeot ."
# Some of every plane that has characters; no surrogates, no U+2581, which SentencePiece means by a
# space and cannot give back.
_RANGES = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x52F), (0x4E00, 0x4FFF), (0x1F300, 0x1F6FF)]


def sample_texts(seed: int = 0, count: int = 1000) -> list[str]:
    """The same texts for the same seed."""
    chooser = random.Random(seed)  # noqa: S311 - nothing secret
    makers = (_real, _mixed, _repetitive, _any_characters)
    return [makers[i % len(makers)](chooser) for i in range(count)]


def _real(chooser: random.Random) -> str:
    start = chooser.randrange(len(PROSE))
    return PROSE[start : start + chooser.randrange(1, 400)]


def _mixed(chooser: random.Random) -> str:
    words = [*_WORDS, *PROSE[:2000].split()[:60]]
    parts = [
        chooser.choice(words) + chooser.choice(_SPACES) for _ in range(chooser.randrange(1, 20))
    ]
    return chooser.choice(_SPACES) + "".join(parts)


def _repetitive(chooser: random.Random) -> str:
    """Few letters, so that many merges are possible and their order matters."""
    return "".join(chooser.choice(_LETTERS) for _ in range(chooser.randrange(1, 80)))


def _any_characters(chooser: random.Random) -> str:
    return "".join(
        chr(chooser.randint(*chooser.choice(_RANGES))) for _ in range(chooser.randrange(1, 40))
    )
