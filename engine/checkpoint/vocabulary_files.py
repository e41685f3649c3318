"""Which file of a Hugging Face folder has the vocabulary, and what its settings add to it.

Looks at names and at the first bytes; what is in the files is the server's to read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.checkpoint.fields import Fields, quote
from engine.errors import CheckpointError

Kind = Literal["tokenizer.json", "tiktoken", "sentencepiece"]

_MAX_ADDED_TOKENS = 1 << 18
# Base64 and a number: a vocabulary in tiktoken's form. Llama 3 has one by SentencePiece's name.
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")

# A file of tiktoken's form does not say how texts are split; its name or the model's family does,
# given here as GGUF's name of the pattern.
_PATTERN_BY_FILE = {
    **{"gpt2": "gpt-2", "r50k_base": "gpt-2", "p50k_base": "gpt-2"},
    **{"cl100k_base": "llama-bpe", "o200k_base": "gpt-4o", "qwen": "qwen2"},
}
_PATTERN_BY_FAMILY = {"llama": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2"}


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is not in the vocabulary's file. A special one is control, not text."""

    text: str
    is_special: bool


def find_vocabulary(folder: Path) -> tuple[Kind, Path | None]:
    """The file that has the vocabulary, None if there is none; `tokenizer.json` comes first."""
    if (path := folder / "tokenizer.json").is_file():
        return "tokenizer.json", path
    if (path := folder / "tokenizer.model").is_file():
        return ("tiktoken" if _is_tiktoken(path) else "sentencepiece"), path
    paths = sorted(folder.glob("*.tiktoken"))
    if len(paths) > 1:
        raise CheckpointError(f"{folder}: has {len(paths)} .tiktoken files; one is needed")
    return ("tiktoken", paths[0]) if paths else ("tokenizer.json", None)


def tiktoken_pattern(path: Path, config: Fields) -> str:
    """The name of the pattern for a vocabulary in tiktoken's form."""
    family = config.text("model_type", "")
    pattern = _PATTERN_BY_FILE.get(path.stem) or _PATTERN_BY_FAMILY.get(family)
    if pattern is None:
        raise CheckpointError(
            f"{path}: does not say how texts are split, and neither its name nor the model_type "
            f"{quote(family)} tells; save the tokenizer as tokenizer.json with transformers"
        )
    return pattern


def added_tokens(settings: Fields, vocab_size: int) -> Mapping[int, AddedToken]:
    """`added_tokens_decoder` of a `tokenizer_config.json`, by id."""
    section = settings.section("added_tokens_decoder")
    if section is None:
        return {}
    if len(section.values) > _MAX_ADDED_TOKENS:
        raise settings.error("added_tokens_decoder", f"has {len(section.values)} entries")
    tokens = {}
    for key in section.values:
        entry = section.section(key)
        if entry is None or not (key.isascii() and key.isdigit()) or len(key) > 9:
            raise settings.error("added_tokens_decoder", f"has a damaged entry {quote(key)}")
        if int(key) >= vocab_size:
            raise section.error(key, f"is no id of a vocabulary of {vocab_size}")
        tokens[int(key)] = AddedToken(entry.text("content"), entry.flag("special", False))
    return tokens


def _is_tiktoken(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _TIKTOKEN_LINE.match(file.read(4096)) is not None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
