"""Text to token ids and back, for every kind of vocabulary a checkpoint may bring."""

from __future__ import annotations

from engine import TokenizerData
from server.tokenizer.byte_level import load_gguf
from server.tokenizer.hugging_face import load_tokenizer_json
from server.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]


def load_tokenizer(data: TokenizerData) -> Tokenizer:
    """Build the tokenizer that a checkpoint describes. Raises CheckpointError."""
    return load_gguf(data) if data.kind == "gguf-bpe" else load_tokenizer_json(data)
