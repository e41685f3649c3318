"""Log-probabilities in the shapes of the API: OpenAI's four parallel lists, vLLM's prompt table.

Token ids become text here; what a log-probability is, the engine knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from engine import TokenLogprobs
from server.tokenizer import Tokenizer

TokenName = Callable[[int], str]


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


class RankedToken(msgspec.Struct, frozen=True):
    """One candidate for a place in the prompt."""

    logprob: float
    rank: int
    decoded_token: str


PromptTable = list[dict[str, RankedToken] | None]


def name_by_id(token_id: int) -> str:
    """How a token is called where its text would not tell it from others."""
    return f"token_id:{token_id}"


def token_entry(
    name: TokenName, token_id: int, logprobs: TokenLogprobs | None, num_top: int, offset: int
) -> TokenEntry:
    """The token's entry; its `num_top` alternatives best first, the token itself always among them.

    Two tokens can have one text, a dict cannot hold it twice: the token itself keeps the text, and
    of the others the best; the rest are called by their id.
    """
    text = name(token_id)
    if logprobs is None:
        return TokenEntry(text, None, None, offset)
    top: dict[str, float] = {}
    for other_id, logprob in zip(
        logprobs.top_token_ids[:num_top], logprobs.top_logprobs[:num_top], strict=True
    ):
        other = text if other_id == token_id else name(other_id)
        if other_id != token_id and (other == text or other in top):
            other = name_by_id(other_id)
        top[other] = logprob
    top.setdefault(text, logprobs.logprob)
    return TokenEntry(text, logprobs.logprob, top, offset)


def token_offset(tokenizer: Tokenizer, token_id: int, num_before: int, text: str) -> int:
    """Where a token begins, if decoding it brought `text` after `num_before` characters.

    That may begin with what is left of earlier tokens: bytes that turned out to be no character.
    """
    own = tokenizer.token_text(token_id)
    return num_before + (len(text) - len(own) if text.endswith(own) else 0)


def prompt_entries(
    tokenizer: Tokenizer,
    name: TokenName,
    text: str,
    token_ids: Sequence[int],
    logprobs: Sequence[TokenLogprobs | None],
    num_top: int,
) -> list[TokenEntry]:
    """One entry for each token of a prompt whose text is shown as `text`."""
    shows_all = tokenizer.decode(token_ids, skip_special_tokens=False) == text
    decoder = tokenizer.stream_decoder(skip_special_tokens=not shows_all)
    entries = []
    offset = 0
    for token_id, values in zip(token_ids, logprobs, strict=True):
        piece = decoder.add((token_id,))
        begin = token_offset(tokenizer, token_id, offset, piece)
        entries.append(token_entry(name, token_id, values, num_top, begin))
        # Decoding leaves special tokens out. The text may show them, or not if they were added.
        special = "" if piece else tokenizer.token_text(token_id)
        offset += len(special) if special and text.startswith(special, offset) else len(piece)
    return entries


def prompt_table(
    tokenizer: Tokenizer,
    token_ids: Sequence[int],
    logprobs: Sequence[TokenLogprobs | None],
    num_top: int,
) -> PromptTable:
    """For each token of a prompt, itself and the `num_top` best in its place, by id; the first has
    none. vLLM's `prompt_logprobs`."""
    table: PromptTable = []
    for token_id, values in zip(token_ids, logprobs, strict=True):
        if values is None:
            table.append(None)
            continue
        candidates = {token_id: (values.logprob, values.rank)}
        for rank, other_id in enumerate(values.top_token_ids[:num_top], 1):
            candidates.setdefault(other_id, (values.top_logprobs[rank - 1], rank))
        table.append(
            {
                str(candidate): RankedToken(logprob, rank, tokenizer.token_text(candidate))
                for candidate, (logprob, rank) in candidates.items()
            }
        )
    return table
