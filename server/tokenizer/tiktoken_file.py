"""Vocabularies in tiktoken's form: a line for each token, its bytes in base64 and its id.

A token's id is also its rank: of two neighbours, those that make the token of the lowest id are
joined first.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from engine import CheckpointError, TokenizerData
from server.tokenizer.pre_tokenizers import SPLITS
from server.tokenizer.rank_encoding import RankEncoding
from server.tokenizer.special_tokens import SpecialTokens
from server.tokenizer.tokenizer import VocabularyTokenizer

# 200,000 tokens make about 4 MB.
_MAX_FILE_BYTES = 64 << 20


def load_tiktoken_file(data: TokenizerData) -> VocabularyTokenizer:
    """A tokenizer from `data.vocabulary_path`. Raises CheckpointError."""
    path = data.vocabulary_path
    if path is None or data.pre is None or data.pre not in SPLITS:
        raise CheckpointError("the model's folder has no .tiktoken file, or one of unknown pattern")
    ranks = _read(path)
    if taken := data.added_tokens.keys() & set(ranks.values()):
        name = data.added_tokens[min(taken)].text
        raise CheckpointError(f"{path}: the added token {name!r} has the id of another")
    special_tokens = SpecialTokens({t.text: i for i, t in data.added_tokens.items()})
    encoding = RankEncoding(ranks, SPLITS[data.pre])

    def encode_text(text: str) -> list[int]:
        token_ids: list[int] = []
        for part, special_id in special_tokens.split(text):
            if special_id is not None:
                token_ids.append(special_id)
            else:
                token_ids += encoding.encode(part)
        return token_ids

    token_bytes = [b""] * (max(*ranks.values(), *data.added_tokens) + 1)
    for content, token_id in ranks.items():
        token_bytes[token_id] = content
    for token_id, token in data.added_tokens.items():
        token_bytes[token_id] = b"" if token.is_special else token.text.encode()
    return VocabularyTokenizer(
        data,
        encode_text=encode_text,
        token_bytes=token_bytes,
        special_names={i: t.text for i, t in data.added_tokens.items() if t.is_special},
        added_ids={token.text: token_id for token_id, token in data.added_tokens.items()},
        add_bos=data.add_bos,
    )


def _read(path: Path) -> dict[bytes, int]:
    """Id by bytes. All 256 single bytes must have one, and no id may be given twice."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
    ranks: dict[bytes, int] = {}
    lines = content.splitlines()
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        token, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise CheckpointError(f"{path}: line {number} is not a token and its id") from None
    ids = set(ranks.values())
    if len(ids) != len(ranks) or len(ranks) != sum(map(bool, lines)) or b"" in ranks:
        raise CheckpointError(f"{path}: a token or an id is there twice, or a token is empty")
    if not all(bytes([byte]) in ranks for byte in range(256)):
        raise CheckpointError(f"{path}: not every byte has a token")
    if min(ids) < 0 or max(ids) >= 4 * len(ids):
        raise CheckpointError(f"{path}: ids must count up from 0")
    return ranks
