"""docs/models.md names what the code reads, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from engine.checkpoint.tensor_data import BLOCK_LAYOUTS
from server.tokenizer.pre_tokenizers import SPLITS

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")


def test_every_type_of_weights() -> None:
    start = PAGE.index("**GGUF**")
    rows = re.findall(r"^\| ([A-Z0-9_, ]+) \|", PAGE[start:], re.MULTILINE)
    named = [name for row in rows for name in row.split(", ")]
    assert sorted(named) == sorted(BLOCK_LAYOUTS)


def test_every_byte_level_pattern() -> None:
    start = PAGE.index("Byte-level patterns")
    names = re.findall(r"`([^`]+)`", PAGE[start : PAGE.index("Not read in GGUF")])
    assert names[0] == "tokenizer.ggml.pre"
    assert names[1:] == sorted(SPLITS)
