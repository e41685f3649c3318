"""Log-probabilities in the shape of the completions API: four lists that run in parallel.

Token ids become text here; what a log-probability is, the engine knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine import TokenLogprobs
from server.tokenizer import Tokenizer


class TokenEntry(msgspec.Struct, frozen=True):
    """One token: the same place of all four lists. None where the first prompt token has none."""

    token: str
    logprob: float | None
    top: dict[str, float] | None
    offset: int


class Logprobs(msgspec.Struct):
    """`text_offset` counts characters (code points) of the whole text of the choice."""

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    text_offset: list[int] = []

    def append(self, entry: TokenEntry) -> None:
        self.tokens.append(entry.token)
        self.token_logprobs.append(entry.logprob)
        self.top_logprobs.append(entry.top)
        self.text_offset.append(entry.offset)

    def extend(self, other: Logprobs) -> None:
        self.tokens += other.tokens
        self.token_logprobs += other.token_logprobs
        self.top_logprobs += other.top_logprobs
        self.text_offset += other.text_offset


def token_entry(
    tokenizer: Tokenizer, token_id: int, logprobs: TokenLogprobs | None, offset: int
) -> TokenEntry:
    """The token's entry; its alternatives best first, the token itself always among them.

    Two tokens can have one text, a dict cannot hold it twice: the token itself keeps the text, and
    of the others the best; the rest are written `token_id:123`.
    """
    text = tokenizer.token_text(token_id)
    if logprobs is None:
        return TokenEntry(text, None, None, offset)
    top: dict[str, float] = {}
    for other_id, logprob in zip(logprobs.top_token_ids, logprobs.top_logprobs, strict=True):
        other = text if other_id == token_id else tokenizer.token_text(other_id)
        if other_id != token_id and (other == text or other in top):
            other = f"token_id:{other_id}"
        top[other] = logprob
    top.setdefault(text, logprobs.logprob)
    return TokenEntry(text, logprobs.logprob, top, offset)


def prompt_entries(
    tokenizer: Tokenizer,
    text: str,
    token_ids: Sequence[int],
    logprobs: Sequence[TokenLogprobs | None],
) -> list[TokenEntry]:
    """One entry for each token of a prompt whose text is shown as `text`."""
    decoder = tokenizer.stream_decoder()
    entries = []
    offset = 0
    for token_id, values in zip(token_ids, logprobs, strict=True):
        entries.append(token_entry(tokenizer, token_id, values, offset))
        piece = decoder.add((token_id,))
        # Decoding leaves special tokens out; a prompt that was sent as text shows them.
        name = "" if piece else tokenizer.token_text(token_id)
        offset += len(name) if name and text.startswith(name, offset) else len(piece)
    return entries
