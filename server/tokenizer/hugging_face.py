"""Vocabularies of a Hugging Face `tokenizer.json`, encoded by the `tokenizers` library.

Decoding is ours: the file's decoder is read as a rule that gives each token its bytes, which is
what streaming, log-probabilities and limits need. Byte-level and SentencePiece-like decoders do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from engine import CheckpointError, TokenizerData
from server.tokenizer.byte_level import alphabet_to_bytes
from server.tokenizer.tokenizer import VocabularyTokenizer

_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


def load_tokenizer_json(data: TokenizerData) -> VocabularyTokenizer:
    """A tokenizer from `data.json_path`. Raises CheckpointError."""
    if data.json_path is None:
        raise CheckpointError(
            "the model has no tokenizer: its folder needs a tokenizer.json (or a tokenizer.model, "
            "or a .tiktoken file)"
        )
    try:
        source = data.json_path.read_text(encoding="utf-8")
        tokenizer = tokenizers.Tokenizer.from_str(source)
        rule = _read_rule(json.loads(source)["decoder"], data.json_path)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{data.json_path} cannot be read as a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode_text(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    special_names = {token_id: token.content for token_id, token in added.items() if token.special}
    token_bytes = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, token_id in vocabulary.items():
        if token_id not in special_names:
            token_bytes[token_id] = rule.to_bytes(token)
    # Some models ask for BOS in their configuration, others only in the file's post-processor.
    first_ids = tokenizer.encode("").ids[:1]
    return VocabularyTokenizer(
        data,
        encode_text=encode_text,
        token_bytes=token_bytes,
        special_names=special_names,
        added_ids={token.content: token_id for token_id, token in added.items()},
        add_bos=data.add_bos or first_ids == [data.bos_token_id],
        drops_first_space=rule.drops_first_space,
    )


@dataclass(slots=True)
class _DecodingRule:
    """How a token string becomes bytes, and whether a document's first space is not its own."""

    byte_level: bool = False
    byte_fallback: bool = False
    space: str | None = None
    drops_first_space: bool = False

    def to_bytes(self, token: str) -> bytes:
        if self.byte_fallback and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(byte[1])
        if self.space is not None:
            token = token.replace(self.space, " ")
        if self.byte_level:
            return alphabet_to_bytes(token)
        return token.encode()


def _read_rule(decoder: Any, path: Path) -> _DecodingRule:
    """Read the decoder of a `tokenizer.json`. Raises CheckpointError for kinds not supported."""
    rule = _DecodingRule()
    for step in _steps(decoder):
        match step:
            case {"type": "ByteLevel"}:
                rule.byte_level = True
            case {"type": "ByteFallback"}:
                rule.byte_fallback = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Replace", "pattern": {"String": str(space)}, "content": " "}:
                rule.space = space
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
                rule.drops_first_space = True
            case {"type": "Metaspace", "replacement": str(space)}:
                rule.space = space
                rule.drops_first_space = step.get("prepend_scheme", "always") != "never"
            case _:
                raise CheckpointError(f"{path}: the decoder {json.dumps(step)} is not supported")
    return rule


def _steps(decoder: Any) -> Iterator[Any]:
    if decoder is not None and decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder
