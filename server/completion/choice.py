"""The text of one choice: from token ids to what may be shown, and where it ends.

Holds back what could still become a stop string, and the log-probabilities of text that is held
back. What is shown does not depend on how the tokens were grouped when they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from engine import ChoiceOutput, FinishReason, TokenLogprobs
from server.completion.logprobs import (
    Logprobs,
    PromptTable,
    TokenEntry,
    TokenName,
    name_by_id,
    token_entry,
    token_offset,
)
from server.text import StopAutomaton, StopStrings
from server.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChoiceFormat:
    """How the choices of a request are shown.

    `logprobs`, `echoed_logprobs` (of a prompt that is put in front) and `prompt_logprobs` (of the
    prompt, in a table) are numbers of alternatives; None is for no log-probabilities at all.
    """

    stop: StopAutomaton | None = None
    includes_stop: bool = False
    min_tokens: int = 0
    skips_special_tokens: bool = True
    logprobs: int | None = None
    echoed_logprobs: int | None = None
    prompt_logprobs: int | None = None
    names_tokens_by_id: bool = False
    returns_token_ids: bool = False

    def token_name(self, tokenizer: Tokenizer) -> TokenName:
        """How log-probabilities call a token."""
        return name_by_id if self.names_tokens_by_id else tokenizer.token_text


class PieceExtras(msgspec.Struct, omit_defaults=True):
    """What other servers' clients may ask for besides, under the names that vLLM gives it.

    `token_ids` are the new tokens of the piece, those of the prompt come with the first piece.
    """

    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    prompt_logprobs: PromptTable | None = None

    def extend(self, other: PieceExtras) -> None:
        """Append a later piece's."""
        if other.token_ids is not None:
            self.add_tokens(other.token_ids)

    def add_tokens(self, token_ids: list[int]) -> None:
        self.token_ids = (self.token_ids or []) + token_ids


class Piece(msgspec.Struct):
    """What one moment brought for one choice: the next text, and the reason when it is the last."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    extras: PieceExtras | None = None


class Choice:
    """`index` is the choice's place in the answer. `num_tokens` counts what it generated, and
    `sum_logprobs` is how likely that was, if log-probabilities came."""

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        shown: ChoiceFormat,
        *,
        prompt_text: str = "",
        prompt_token_ids: list[int] | None = None,
    ) -> None:
        """`prompt_text` is put in front (echo)."""
        self.index = index
        self.num_tokens = 0
        self.sum_logprobs = 0.0
        self.finish_reason: str | None = None
        self._format = shown
        self._tokenizer = tokenizer
        self._name = shown.token_name(tokenizer)
        self._decoder = tokenizer.stream_decoder(shown.skips_special_tokens)
        self._stops = None if shown.stop is None else StopStrings(shown.stop)
        self._awaits_prompt_logprobs = shown.echoed_logprobs is not None
        self._texts = [prompt_text]  # shown, not taken yet
        self._num_shown = len(prompt_text)
        self._num_decoded = len(prompt_text)
        self._entries: deque[TokenEntry] = deque()  # not taken yet, in order
        self._extras: PieceExtras | None = None
        if shown.returns_token_ids:
            self._extras = PieceExtras(prompt_token_ids=prompt_token_ids, token_ids=[])

    def add_prompt_logprobs(self, entries: Sequence[TokenEntry]) -> None:
        self._entries.extendleft(reversed(entries))
        self._awaits_prompt_logprobs = False

    def add(self, output: ChoiceOutput) -> None:
        """Take in what the engine brought; `finish_reason` is set if this ended the choice.

        Not to be called after the end.
        """
        token_ids = shown = output.token_ids
        if output.stop_token_id is not None and not self._format.includes_stop:
            shown = token_ids[:-1]  # it ends the text and is no part of it
        num_used = len(token_ids)
        if self._stops is None and self._format.logprobs is None:
            self._show(self._decoder.add(shown))
        else:
            num_shown = self._add_one_by_one(shown, output.logprobs)
            if self.finish_reason is not None:
                num_used = num_shown
        self.num_tokens += num_used
        if output.logprobs is not None:
            self.sum_logprobs += sum(entry.logprob for entry in output.logprobs[:num_used])
        if self._extras is not None:
            self._extras.add_tokens(token_ids[:num_used])
        if output.finish_reason is not None and self.finish_reason is None:
            self._finish(output.finish_reason)

    def take(self) -> Piece | None:
        """What may be shown now and was not taken yet; None if there is nothing to say."""
        if self._awaits_prompt_logprobs:
            return None
        text = "".join(self._texts)
        self._texts.clear()
        if not text and self.finish_reason is None:
            return None
        logprobs = None if self._format.logprobs is None else self._take_logprobs()
        extras = self._extras
        if extras is not None:
            self._extras = PieceExtras(token_ids=[])
        return Piece(self.index, text, logprobs, self.finish_reason, extras)

    def _add_one_by_one(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None
    ) -> int:
        """Token by token: a stop string ends the choice at the token that completed it. Returns how
        many tokens it took."""
        num_top = self._format.logprobs
        for position, token_id in enumerate(token_ids):
            text = self._decoder.add((token_id,))
            if logprobs is not None and num_top is not None:
                offset = token_offset(self._tokenizer, token_id, self._num_decoded, text)
                self._entries.append(
                    token_entry(self._name, token_id, logprobs[position], num_top, offset)
                )
            self._num_decoded += len(text)
            if self.num_tokens + position >= self._format.min_tokens:
                text = self._before_stop(text)
            self._show(text)
            if self._is_stopped():
                return position + 1
        return len(token_ids)

    def _finish(self, reason: FinishReason) -> None:
        """The engine ended the choice: show what was held back."""
        text = self._decoder.finish()
        if self._stops is not None and self.num_tokens > self._format.min_tokens:
            text = self._before_stop(text)
            if self._stops.matched is None:
                text += self._stops.finish()
                if self._stops.matched is not None and self._format.includes_stop:
                    text += self._stops.matched
        self._show(text)
        if not self._is_stopped():
            self.finish_reason = reason.value

    def _before_stop(self, text: str) -> str:
        """What may be shown of `text`, up to a stop string, or to its end if that is included."""
        if self._stops is None:
            return text
        text = self._stops.feed(text)
        if self._stops.matched is not None and self._format.includes_stop:
            text += self._stops.matched
        return text

    def _is_stopped(self) -> bool:
        if self._stops is None or self._stops.matched is None:
            return False
        self.finish_reason = FinishReason.STOP.value
        while self._entries and self._entries[-1].offset >= self._num_shown:
            self._entries.pop()  # the tokens of the stop string
        return True

    def _show(self, text: str) -> None:
        self._texts.append(text)
        self._num_shown += len(text)

    def _take_logprobs(self) -> Logprobs:
        taken = Logprobs()
        while self._entries and (
            self.finish_reason is not None or self._entries[0].offset < self._num_shown
        ):
            taken.append(self._entries.popleft())
        return taken
