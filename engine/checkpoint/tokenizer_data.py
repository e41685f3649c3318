"""What a checkpoint says about its tokenizer: facts and paths, no algorithm (`server/tokenizer/`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class TokenizerData:
    """`tokens`, `token_types`, `merges` and `pre` come from GGUF; `json_path` from a folder.

    Token strings stand by id in the byte-level BPE alphabet; `pre` is `tokenizer.ggml.pre`.
    """

    kind: Literal["gguf-bpe", "tokenizer.json"]
    tokens: list[str] | None
    token_types: list[int] | None
    merges: list[str] | None
    pre: str | None
    json_path: Path | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos: bool
    chat_template: str | None
