"""A tokenizer for tests: one token for each byte, so that characters are split over tokens.

256 is the beginning of a text, 257 its end, 258 `<special>`; ids above have no text.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

BOS, EOS, SPECIAL = 256, 257, 258
_NAMES = {BOS: "<s>", EOS: "</s>", SPECIAL: "<special>"}


class ByteTokenizer:
    vocab_size = 259
    bos_token_id = BOS
    eos_token_ids = (EOS,)
    max_token_bytes = 1

    def encode(self, text: str) -> list[int]:
        parts = text.split("<special>")
        token_ids = [BOS, *parts[0].encode()]
        for part in parts[1:]:
            token_ids += [SPECIAL, *part.encode()]
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return _bytes(token_ids).decode(errors="replace")

    def token_text(self, token_id: int) -> str:
        if token_id < 128:
            return chr(token_id)
        return _NAMES.get(token_id, f"bytes:\\x{token_id:02x}")

    def stream_decoder(self) -> ByteDecoder:
        return ByteDecoder()


class ByteDecoder:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_ids: Sequence[int]) -> str:
        return self._decoder.decode(_bytes(token_ids))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def _bytes(token_ids: Sequence[int]) -> bytes:
    return bytes(token_id for token_id in token_ids if token_id < 256)
