"""The vocabulary of the soak: a token for each of the fake runner's, and texts that show mistakes.

Common characters, some words, and bytes that are characters only together: almost every text that
the fake runner draws has characters split over tokens, and bytes that are none.
"""

from __future__ import annotations

import re

from byte_tokenizer import no_vocabulary
from fake_runner import VOCAB_SIZE

from server.tokenizer import Tokenizer
from server.tokenizer.tokenizer import VocabularyTokenizer

# The fake runner draws the first four most often.
_CHARACTERS = " etabcdfghijklmnopqrsuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"\\\n\t-"
_WORDS = ["the", "ing", " and", "an", "st", "\r\n", "tt"]
_WIDE = "é€😀日"  # of two, three, four and three bytes
_BYTES = sorted(set("".join(_WIDE).encode()))

TOKEN_BYTES = [text.encode() for text in [*_CHARACTERS, *_WORDS]] + [bytes([b]) for b in _BYTES]
assert len(TOKEN_BYTES) == VOCAB_SIZE - 3
SPECIAL, BOS, EOS, POISON = range(VOCAB_SIZE - 3, VOCAB_SIZE + 1)
SPECIAL_NAMES = {SPECIAL: "<special>", BOS: "<s>", EOS: "</s>", POISON: "<poison>"}
TOKEN_BYTES += [b""] * len(SPECIAL_NAMES)

ALPHABET = _CHARACTERS + _WIDE
_IDS = {data: token_id for token_id, data in enumerate(TOKEN_BYTES) if data}
_CHARACTER_IDS = {
    character: [_IDS[character.encode()]]
    if character.encode() in _IDS
    else [_IDS[bytes([byte])] for byte in character.encode()]
    for character in ALPHABET
}
_IDS_OF_NAMES = {name: token_id for token_id, name in SPECIAL_NAMES.items()}
_NAMES = re.compile("(" + "|".join(map(re.escape, _IDS_OF_NAMES)) + ")")


def encode(text: str) -> list[int]:
    """Character by character, names of special tokens apart. No BOS is added."""
    token_ids: list[int] = []
    for part in _NAMES.split(text):
        if part in _IDS_OF_NAMES:
            token_ids.append(_IDS_OF_NAMES[part])
        else:
            for character in part:
                token_ids += _CHARACTER_IDS[character]
    return token_ids


def decode(token_ids: list[int], *, names: bool = False) -> str:
    """All of it at once: what any way to cut it into pieces must come to."""
    return data_of(token_ids, names=names).decode("utf-8", "replace")


def data_of(token_ids: list[int], *, names: bool = False) -> bytes:
    return b"".join(
        TOKEN_BYTES[i] or (SPECIAL_NAMES[i].encode() if names else b"") for i in token_ids
    )


def token_name(token_id: int) -> str:
    """How log-probabilities call it."""
    data = TOKEN_BYTES[token_id]
    if not data:
        return SPECIAL_NAMES[token_id]
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def soak_tokenizer() -> Tokenizer:
    """The server's own, over this vocabulary."""
    return VocabularyTokenizer(
        no_vocabulary(BOS, EOS),
        encode_text=encode,
        token_bytes=TOKEN_BYTES,
        special_names=SPECIAL_NAMES,
        added_ids=_IDS_OF_NAMES,
        add_bos=True,
    )
