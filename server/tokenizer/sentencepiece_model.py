"""A `tokenizer.model` of SentencePiece, encoded by its own library, which is an optional extra.

Folders of older models have it and no `tokenizer.json`. Control tokens and those that
`tokenizer_config.json` adds are parsed by us: the library takes them for text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine import CheckpointError, TokenizerData
from server.tokenizer.special_tokens import SpecialTokens
from server.tokenizer.tokenizer import VocabularyTokenizer

_SPACE = "\u2581"
_MAX_FILE_BYTES = 64 << 20


def load_sentencepiece(data: TokenizerData) -> VocabularyTokenizer:
    """A tokenizer from `data.vocabulary_path`. Raises CheckpointError."""
    if data.vocabulary_path is None:
        raise CheckpointError("the model's folder has no tokenizer.model")
    processor = _open(data.vocabulary_path)
    num_pieces = processor.get_piece_size()
    added = data.added_tokens
    names = {
        token_id: processor.id_to_piece(token_id)
        for token_id in range(num_pieces)
        if processor.is_control(token_id) or processor.is_unknown(token_id)
    }
    names |= {token_id: token.text for token_id, token in added.items() if token.is_special}
    token_bytes = [b""] * max(num_pieces, *(token_id + 1 for token_id in added), 1)
    for token_id in range(num_pieces):
        if token_id not in names:
            token_bytes[token_id] = _to_bytes(processor, token_id)
    for token_id, token in added.items():
        token_bytes[token_id] = b"" if token.is_special else token.text.encode()
    added_ids = {name: token_id for token_id, name in names.items()}
    added_ids |= {token.text: token_id for token_id, token in added.items()}
    special_tokens = SpecialTokens(added_ids)

    def encode_text(text: str) -> list[int]:
        token_ids: list[int] = []
        for part, special_id in special_tokens.split(text):
            if special_id is not None:
                token_ids.append(special_id)
            else:
                token_ids += processor.encode(part)
        return token_ids

    return VocabularyTokenizer(
        data,
        encode_text=encode_text,
        token_bytes=token_bytes,
        special_names=names,
        added_ids=added_ids,
        add_bos=data.add_bos,
        drops_first_space=processor.normalize("x").startswith(_SPACE),
    )


def _open(path: Path) -> Any:
    # An extra: most models have a tokenizer.json, and the library is large.
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise CheckpointError(
            f"{path} needs the package sentencepiece: pip install sentencepiece, or save the "
            "tokenizer as tokenizer.json with transformers"
        ) from None
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise CheckpointError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
        return SentencePieceProcessor(model_proto=path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read as a SentencePiece model: {error}") from None


def _to_bytes(processor: Any, token_id: int) -> bytes:
    piece: str = processor.id_to_piece(token_id)
    if processor.is_byte(token_id):
        return bytes.fromhex(piece[3:5])
    return piece.replace(_SPACE, " ").encode()
