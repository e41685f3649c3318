"""Byte-level BPE vocabularies as GGUF stores them, and GPT-2's own files, on `tiktoken`.

Token strings are written in GPT-2's alphabet: one printable character for each byte value.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from engine import CheckpointError, TokenizerData
from server.tokenizer.pre_tokenizers import SPLITS
from server.tokenizer.rank_encoding import RankEncoding
from server.tokenizer.special_tokens import SpecialTokens
from server.tokenizer.tokenizer import VocabularyTokenizer

logger = logging.getLogger(__name__)

# Values of `tokenizer.ggml.token_type` (GGUF specification).
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4


def _alphabet() -> dict[int, int]:
    """Code point to byte value, and every code point below 256 that is no letter to one above."""
    letters = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in letters]
    shifted = {0x100 + i: byte for i, byte in enumerate(others)}
    return {byte: byte for byte in letters} | dict.fromkeys(others, 0xFFFD) | shifted


_ALPHABET = _alphabet()
_LETTERS = {byte: chr(letter) for letter, byte in _ALPHABET.items() if byte < 0x100}


def alphabet_to_bytes(token: str) -> bytes:
    """The bytes a token string stands for; one with other characters stands for itself."""
    try:
        return token.translate(_ALPHABET).encode("latin-1")
    except ValueError:
        return token.encode()


def load_gguf(data: TokenizerData) -> VocabularyTokenizer:
    """A tokenizer from GGUF's `tokenizer.ggml.*` fields. Raises CheckpointError."""
    if not data.tokens or not data.merges:
        raise CheckpointError(
            "the GGUF file has no byte-level BPE vocabulary: tokenizer.ggml.tokens or "
            "tokenizer.ggml.merges is missing; convert the model again"
        )
    if data.pre == "default":
        logger.warning(
            "the GGUF file does not say how its tokenizer splits a text: it is split as llama.cpp "
            "does then, which may not be what the model was trained with; convert it again"
        )
    types = data.token_types or [_NORMAL] * len(data.tokens)
    special_ids = {
        token: token_id
        for token_id, (token, token_type) in enumerate(zip(data.tokens, types, strict=True))
        if token_type in (_UNKNOWN, _CONTROL, _USER_DEFINED) and token
    }
    encoder = BytePairEncoder(data.tokens, data.merges, special_ids, splits=_splits(data.pre))
    return VocabularyTokenizer(
        data,
        encode_text=encoder.encode,
        token_bytes=[_to_bytes(*item) for item in zip(data.tokens, types, strict=True)],
        special_names={
            token_id: data.tokens[token_id]
            for token_id, token_type in enumerate(types)
            if token_type not in (_NORMAL, _USER_DEFINED)
        },
        added_ids=special_ids,
        add_bos=data.add_bos,
    )


class BytePairEncoder:
    """Text to ids. A byte value without a token is left out, and nothing merges across it.

    tiktoken merges by rank. Ranks here are private (all 256 byte values, then the merges in their
    order) and translated into ids at the end, so it does not matter how ids are ordered or which
    bytes the vocabulary lacks. Raises CheckpointError for a merge that makes no token.
    """

    def __init__(
        self,
        tokens: list[str],
        merges: list[str],
        special_ids: dict[str, int],
        *,
        splits: Sequence[str],
    ) -> None:
        token_ids = {token: token_id for token_id, token in enumerate(tokens)}
        ranks = {bytes([byte]): byte for byte in range(0x100)}
        self._ids_by_rank = [token_ids.get(_LETTERS[byte]) for byte in range(0x100)]
        made = dict.fromkeys(merge.replace(" ", "", 1) for merge in merges)
        for rank, token in enumerate(made, len(ranks)):
            if token not in token_ids:
                raise CheckpointError(
                    f"the vocabulary is inconsistent: a merge makes {token!r}, which is no token"
                )
            ranks[alphabet_to_bytes(token)] = rank
            self._ids_by_rank.append(token_ids[token])
        self._ranks = RankEncoding(ranks, splits)
        self._special_tokens = SpecialTokens(special_ids)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, which has no lone surrogates; special tokens in it are parsed."""
        token_ids: list[int] = []
        for part, special_id in self._special_tokens.split(text):
            if special_id is not None:
                token_ids.append(special_id)
            else:
                token_ids += self._encode_ordinary(part)
        return token_ids

    def _encode_ordinary(self, text: str) -> Iterator[int]:
        for rank in self._ranks.encode(text):
            token_id = self._ids_by_rank[rank]
            if token_id is not None:
                yield token_id


def _splits(pre: str | None) -> Sequence[str]:
    if pre is None or pre not in SPLITS:
        raise CheckpointError(
            f"the pre-tokenizer {pre!r} (tokenizer.ggml.pre) is not supported; "
            f"these are: {', '.join(sorted(SPLITS))}"
        )
    return SPLITS[pre]


def _to_bytes(token: str, token_type: int) -> bytes:
    """What a token adds to the text. User-defined tokens are written as they are."""
    if token_type == _NORMAL:
        return alphabet_to_bytes(token)
    return token.encode() if token_type == _USER_DEFINED else b""
