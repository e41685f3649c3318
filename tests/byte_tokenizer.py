"""A tokenizer for tests: one token for each byte, so that characters are split over tokens.

256 is the beginning of a text, 257 its end, 258 `<special>`; a gap is marked with 259 to 261, if
that is wanted. Ids above have no text.
"""

from __future__ import annotations

from engine import TokenizerData
from server.tokenizer import Tokenizer
from server.tokenizer.tokenizer import VocabularyTokenizer

BOS, EOS, SPECIAL = 256, 257, 258
MARKERS = {"<fim_prefix>": 259, "<fim_suffix>": 260, "<fim_middle>": 261}


def byte_tokenizer(*, fill_in_middle: bool = False) -> Tokenizer:
    markers = MARKERS if fill_in_middle else {}
    added_ids = {"<s>": BOS, "</s>": EOS, "<special>": SPECIAL} | markers
    return VocabularyTokenizer(
        no_vocabulary(BOS, EOS),
        encode_text=_encode,
        token_bytes=[*(bytes([byte]) for byte in range(256)), *[b""] * len(added_ids)],
        special_names={token_id: name for name, token_id in added_ids.items()},
        added_ids=added_ids,
        add_bos=True,
    )


def no_vocabulary(bos: int, eos: int) -> TokenizerData:
    """What a checkpoint says of a vocabulary that is the test's own."""
    return TokenizerData(
        kind="gguf-bpe",
        tokens=None,
        token_types=None,
        merges=None,
        pre=None,
        json_path=None,
        bos_token_id=bos,
        eos_token_ids=(eos,),
        add_bos=True,
        chat_template=None,
    )


def _encode(text: str) -> list[int]:
    first, *rest = text.split("<special>")
    token_ids = list(first.encode())
    for part in rest:
        token_ids += [SPECIAL, *part.encode()]
    return token_ids
