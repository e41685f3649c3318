"""A tokenizer for tests: one token for each byte, so that characters are split over tokens.

256 is the beginning of a text, 257 its end, 258 `<special>`; ids above have no text.
"""

from __future__ import annotations

from engine import TokenizerData
from server.tokenizer import Tokenizer
from server.tokenizer.tokenizer import VocabularyTokenizer

BOS, EOS, SPECIAL = 256, 257, 258


def byte_tokenizer() -> Tokenizer:
    data = TokenizerData(
        kind="gguf-bpe",
        tokens=None,
        token_types=None,
        merges=None,
        pre=None,
        json_path=None,
        bos_token_id=BOS,
        eos_token_ids=(EOS,),
        add_bos=True,
        chat_template=None,
    )
    return VocabularyTokenizer(
        data,
        encode_text=_encode,
        token_bytes=[*(bytes([byte]) for byte in range(256)), b"", b"", b""],
        special_names={BOS: "<s>", EOS: "</s>", SPECIAL: "<special>"},
        add_bos=True,
    )


def _encode(text: str) -> list[int]:
    first, *rest = text.split("<special>")
    token_ids = list(first.encode())
    for part in rest:
        token_ids += [SPECIAL, *part.encode()]
    return token_ids
