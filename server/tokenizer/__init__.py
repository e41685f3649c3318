"""Text to token ids and back, for every kind of vocabulary a checkpoint may bring."""

from __future__ import annotations

from engine import TokenizerData
from server.tokenizer.byte_level import load_gguf
from server.tokenizer.hugging_face import load_tokenizer_json
from server.tokenizer.sentence_pieces import load_gguf_pieces
from server.tokenizer.sentencepiece_model import load_sentencepiece
from server.tokenizer.tiktoken_file import load_tiktoken_file
from server.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]


def load_tokenizer(data: TokenizerData) -> Tokenizer:
    """Build the tokenizer that a checkpoint describes. Raises CheckpointError."""
    return _LOADERS[data.kind](data)


_LOADERS = {
    "gguf-bpe": load_gguf,
    "gguf-spm": load_gguf_pieces,
    "tokenizer.json": load_tokenizer_json,
    "tiktoken": load_tiktoken_file,
    "sentencepiece": load_sentencepiece,
}
