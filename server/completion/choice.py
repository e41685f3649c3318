"""The text of one choice: from token ids to what may be shown, and where it ends.

Holds back what could still become a stop string, and the log-probabilities of text that is held
back. What is shown does not depend on how the tokens were grouped when they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from engine import ChoiceOutput, FinishReason, TokenLogprobs
from server.completion.logprobs import Logprobs, TokenEntry, token_entry
from server.text import StopAutomaton, StopStrings
from server.tokenizer import Tokenizer


class Piece(msgspec.Struct):
    """What one moment brought for one choice: the next text, and the reason when it is the last."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class Choice:
    """`index` is the choice's place in the answer. `num_tokens` counts what it generated."""

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        *,
        stop: StopAutomaton | None = None,
        min_tokens: int = 0,
        logprobs: bool = False,
        prompt_text: str = "",
        awaits_prompt_logprobs: bool = False,
    ) -> None:
        """`prompt_text` is put in front (echo)."""
        self.index = index
        self.num_tokens = 0
        self.finish_reason: str | None = None
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream_decoder()
        self._stops = None if stop is None else StopStrings(stop)
        self._min_tokens = min_tokens
        self._has_logprobs = logprobs
        self._awaits_prompt_logprobs = awaits_prompt_logprobs
        self._texts = [prompt_text]  # shown, not taken yet
        self._num_shown = len(prompt_text)
        self._num_decoded = len(prompt_text)
        self._entries: deque[TokenEntry] = deque()  # not taken yet, in order

    def add_prompt_logprobs(self, entries: Sequence[TokenEntry]) -> None:
        self._entries.extendleft(reversed(entries))
        self._awaits_prompt_logprobs = False

    def add(self, output: ChoiceOutput) -> None:
        """Take in what the engine brought; `finish_reason` is set if this ended the choice.

        Not to be called after the end.
        """
        token_ids = output.token_ids
        if output.stop_token_id is not None:
            token_ids = token_ids[:-1]  # it ends the text and is no part of it
        if self._stops is None and not self._has_logprobs:
            self.num_tokens += len(output.token_ids)
            self._show(self._decoder.add(token_ids))
        else:
            self._add_one_by_one(token_ids, output.logprobs)
            if self.finish_reason is not None:
                return
            self.num_tokens += len(output.token_ids) - len(token_ids)
        if output.finish_reason is not None:
            self._finish(output.finish_reason)

    def take(self) -> Piece | None:
        """What may be shown now and was not taken yet; None if there is nothing to say."""
        if self._awaits_prompt_logprobs:
            return None
        text = "".join(self._texts)
        self._texts.clear()
        if not text and self.finish_reason is None:
            return None
        logprobs = self._take_logprobs() if self._has_logprobs else None
        return Piece(self.index, text, logprobs, self.finish_reason)

    def _add_one_by_one(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None
    ) -> None:
        """Token by token: a stop string ends the choice at the token that completed it."""
        for position, token_id in enumerate(token_ids):
            self.num_tokens += 1
            if logprobs is not None:
                self._entries.append(
                    token_entry(self._tokenizer, token_id, logprobs[position], self._num_decoded)
                )
            text = self._decoder.add((token_id,))
            self._num_decoded += len(text)
            if self._stops is not None and self.num_tokens > self._min_tokens:
                text = self._stops.feed(text)
            self._show(text)
            if self._is_stopped():
                return

    def _finish(self, reason: FinishReason) -> None:
        """The engine ended the choice: show what was held back."""
        text = self._decoder.finish()
        if self._stops is not None and self.num_tokens > self._min_tokens:
            text = self._stops.feed(text)
            if self._stops.matched is None:
                text += self._stops.finish()
        self._show(text)
        if not self._is_stopped():
            self.finish_reason = reason.value

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
