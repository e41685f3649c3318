"""SentencePiece's BPE vocabularies as GGUF stores them: of two neighbours that make a piece, those
whose piece has the highest score are joined first, until none do.

As llama.cpp does it (`llm_tokenizer_spm`), which is what SentencePiece does without normalisation.
A space is written U+2581; what is in no piece becomes byte tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush

from engine import CheckpointError, TokenizerData
from server.tokenizer.special_tokens import SpecialTokens
from server.tokenizer.tokenizer import VocabularyTokenizer

# Values of `tokenizer.ggml.token_type` (GGUF specification).
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6

_SPACE = "\u2581"
_BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")
# A piece with a space after a letter: then pieces may reach over the end of a word.
_REACHES_OVER = re.compile(f"[^{_SPACE}]{_SPACE}")
_WORD = re.compile(f"{_SPACE}*[^{_SPACE}]+|{_SPACE}+")

_MAX_CACHED_WORDS = 1 << 15
_MAX_CACHED_LENGTH = 64


def load_gguf_pieces(data: TokenizerData) -> VocabularyTokenizer:
    """A tokenizer from GGUF's `tokenizer.ggml.*` fields. Raises CheckpointError."""
    if not data.tokens or data.token_types is None or data.scores is None:
        raise CheckpointError(
            "the GGUF file has no SentencePiece vocabulary: tokenizer.ggml.tokens, token_type or "
            "scores is missing; convert the model again"
        )
    types = data.token_types
    special_ids = {
        token: token_id
        for token_id, (token, kind) in enumerate(zip(data.tokens, types, strict=True))
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    }
    encoder = PieceEncoder(
        data.tokens,
        types,
        data.scores,
        SpecialTokens(special_ids, data.strip_after),
        add_space_prefix=data.add_space_prefix,
    )
    return VocabularyTokenizer(
        data,
        encode_text=encoder.encode,
        token_bytes=[_to_bytes(*item) for item in zip(data.tokens, types, strict=True)],
        special_names={
            token_id: token
            for token_id, (token, kind) in enumerate(zip(data.tokens, types, strict=True))
            if kind in (_UNKNOWN, _CONTROL)
        },
        added_ids=special_ids,
        add_bos=data.add_bos,
        drops_first_space=data.add_space_prefix,
    )


class PieceEncoder:
    """Text to ids. Safe to use from several threads."""

    def __init__(
        self,
        tokens: Sequence[str],
        types: Sequence[int],
        scores: Sequence[float],
        special_tokens: SpecialTokens,
        *,
        add_space_prefix: bool,
    ) -> None:
        """`add_space_prefix` is for the beginning of a text and for what follows a special token.
        The lists stand by id."""
        vocabulary = [*zip(tokens, types, strict=True)]
        self._ids = {
            token: token_id
            for token_id, (token, kind) in enumerate(vocabulary)
            if kind not in (_UNKNOWN, _CONTROL, _BYTE)
        }
        self._scores = {token: scores[token_id] for token, token_id in self._ids.items()}
        self._byte_ids = {
            int(match[1], 16): token_id
            for token_id, (token, kind) in enumerate(vocabulary)
            if kind == _BYTE and (match := _BYTE_PIECE.fullmatch(token))
        }
        self._unknown_id = types.index(_UNKNOWN) if _UNKNOWN in types else None
        self._special_tokens = special_tokens
        self._prefix = _SPACE if add_space_prefix else ""
        self._splits_words = not any(map(_REACHES_OVER.search, self._ids))
        self._merge_cached = lru_cache(_MAX_CACHED_WORDS)(self._merge)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, which has no lone surrogates; special tokens in it are parsed."""
        token_ids: list[int] = []
        prefix = self._prefix
        for part, special_id in self._special_tokens.split(text):
            if special_id is not None:
                token_ids.append(special_id)
                prefix = self._prefix
            else:
                token_ids += self._to_ids(prefix + part.replace(" ", _SPACE))
                prefix = ""
        return token_ids

    def _to_ids(self, text: str) -> list[int]:
        token_ids: list[int] = []
        was_unknown = False
        for word in _WORD.findall(text) if self._splits_words else [text]:
            is_short = len(word) <= _MAX_CACHED_LENGTH
            for piece in self._merge_cached(word) if is_short else self._merge(word):
                token_id = self._ids.get(piece)
                if token_id is not None:
                    token_ids.append(token_id)
                elif len(self._byte_ids) == 256:
                    token_ids += [self._byte_ids[byte] for byte in piece.encode()]
                elif self._unknown_id is not None and not was_unknown:
                    token_ids.append(self._unknown_id)
                was_unknown = token_id is None
        return token_ids

    def _merge(self, text: str) -> tuple[str, ...]:
        """The pieces, and the characters that are in none."""
        pieces = list(text)  # what has been joined to the left is empty
        after = [*range(1, len(pieces)), -1]
        before = list(range(-1, len(pieces) - 1))
        scores = self._scores
        # Highest score first, and of equal ones the leftmost; the length tells what is out of date.
        queue = [
            (-scores[pair], i, i + 1, 2)
            for i, pair in enumerate(map(str.__add__, pieces, pieces[1:]))
            if pair in scores
        ]
        heapify(queue)
        while queue:
            _, left, right, length = heappop(queue)
            if not pieces[left] or not pieces[right]:
                continue
            piece = pieces[left] + pieces[right]
            if len(piece) != length:
                continue
            pieces[left], pieces[right] = piece, ""
            following = after[left] = after[right]
            if following >= 0:
                before[following] = left
                _push(queue, scores, left, following, piece + pieces[following])
            if before[left] >= 0:
                _push(queue, scores, before[left], left, pieces[before[left]] + piece)
        return tuple(filter(None, pieces))


_Queue = list[tuple[float, int, int, int]]


def _push(queue: _Queue, scores: dict[str, float], left: int, right: int, piece: str) -> None:
    score = scores.get(piece)
    if score is not None:
        heappush(queue, (-score, left, right, len(piece)))


def _to_bytes(token: str, kind: int) -> bytes:
    """What a token adds to the text."""
    if kind in (_UNKNOWN, _CONTROL):
        return b""
    if kind == _BYTE and (byte := _BYTE_PIECE.fullmatch(token)):
        return bytes.fromhex(byte[1])
    return token.replace(_SPACE, " ").encode()
