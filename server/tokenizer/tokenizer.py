"""What a tokenizer is to the server, and all of it that does not depend on the kind.

A kind brings an encoder and the bytes that each id adds to the text; the rest is here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

from engine import TokenizerData
from server.text import StreamDecoder
from server.tokenizer.description import TokenizerDescription, describe
from server.tokenizer.fill_in_middle import FillInMiddle, find_markers


class Tokenizer(Protocol):
    """Text to token ids and back. Safe to use from several threads."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; the model may have more ids, which stand for nothing."""

    @property
    def bos_token_id(self) -> int | None: ...

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...

    @property
    def max_token_bytes(self) -> int:
        """The most bytes of UTF-8 text that one token can stand for."""

    @property
    def fill_in_middle(self) -> FillInMiddle | None:
        """The ids that mark what is before and after a gap, None if the vocabulary has none."""

    @property
    def description(self) -> TokenizerDescription:
        """What the model says of its tokenizer, for clients that have none of their own."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a prompt. A text without any gives the start of a document: BOS or EOS alone,
        nothing if the model has neither.

        Special tokens written in the text are parsed. BOS comes first if the model wants it and the
        text does not begin with it. Without `add_special_tokens` the ids are those of the text and
        no others. Raises ValueError for lone surrogates.
        """

    def begin_document(self, token_ids: list[int]) -> list[int]:
        """The ids with BOS in front, if the model wants it and they do not begin with it."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text, with the names of special tokens if they are not skipped; what is not UTF-8
        comes as U+FFFD."""

    def token_text(self, token_id: int) -> str:
        """One token for display: its text, its name if special, its bytes as `bytes:\\xe2\\x80` if
        they are not whole characters, `token_id:49152` if the vocabulary does not have it."""

    def stream_decoder(self, skip_special_tokens: bool = True) -> StreamDecoder:
        """A new decoder, for one text; its joined output is what `decode` gives."""


class VocabularyTokenizer:
    """The Tokenizer made of an encoder and a vocabulary.

    `token_bytes` stands by id, empty for ids that add nothing to the text. `special_names` has the
    text of those that are control tokens. `added_ids` finds by their text the tokens that are more
    than what their text says, control tokens and others. `drops_first_space` says that the
    vocabulary puts a space before a document, to be left out after BOS.
    """

    def __init__(
        self,
        data: TokenizerData,
        *,
        encode_text: Callable[[str], list[int]],
        token_bytes: Sequence[bytes],
        special_names: Mapping[int, str],
        added_ids: Mapping[str, int],
        add_bos: bool,
        drops_first_space: bool = False,
    ) -> None:
        self.vocab_size = len(token_bytes)
        self.bos_token_id = data.bos_token_id
        self.eos_token_ids = data.eos_token_ids
        self.fill_in_middle = find_markers(added_ids)
        self.max_token_bytes = max(
            max(map(len, token_bytes), default=0),
            max((len(name.encode()) for name in special_names.values()), default=0),
        )
        self._encode_text = encode_text
        self._token_bytes = token_bytes
        self._special_names = special_names
        bos_ids = [] if data.bos_token_id is None else [data.bos_token_id]
        self._prefix_ids = bos_ids if add_bos else []
        self._document_start = bos_ids or data.eos_token_ids[:1]
        self.description = describe(data, special_names, add_bos=add_bos)
        self._drops_space_after = data.bos_token_id if drops_first_space else None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        text.encode()  # tiktoken would replace lone surrogates in silence; this raises
        token_ids = self._encode_text(text)
        if not add_special_tokens:
            return token_ids
        return self.begin_document(token_ids) or list(self._document_start)

    def begin_document(self, token_ids: list[int]) -> list[int]:
        if token_ids[:1] != self._prefix_ids:
            return self._prefix_ids + token_ids
        return token_ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        decoder = self.stream_decoder(skip_special_tokens)
        return decoder.add(token_ids) + decoder.finish()

    def token_text(self, token_id: int) -> str:
        data = self._token_bytes[token_id] if token_id < self.vocab_size else b""
        if not data:
            return self._special_names.get(token_id, f"token_id:{token_id}")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(map(_escape, data))

    def stream_decoder(self, skip_special_tokens: bool = True) -> StreamDecoder:
        token_bytes = self._token_bytes if skip_special_tokens else self._all_bytes
        return StreamDecoder(token_bytes, self._drops_space_after)

    @cached_property
    def _all_bytes(self) -> list[bytes]:
        """`token_bytes` with the names of special tokens; made when somebody asks for them."""
        names = self._special_names
        return [
            data or names.get(token_id, "").encode()
            for token_id, data in enumerate(self._token_bytes)
        ]


def _escape(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F and byte != ord("\\") else f"\\x{byte:02x}"
