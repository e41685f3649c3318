"""What the server must answer to a completion request, computed from its body alone.

The fake runner's rules give the tokens; texts are decoded all at once, stop strings looked for in
the whole text: nothing here works piece by piece, as the server does.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chaos.soak.engine_process import LIMITS
from chaos.soak.vocabulary import (
    BOS,
    EOS,
    POISON,
    SPECIAL_NAMES,
    data_of,
    decode,
    encode,
    token_name,
)
from fake_runner import (
    expected_beams,
    expected_logprobs,
    expected_prompt_logprobs,
    expected_tokens,
)

from engine import BeamSearch, Request, SamplingParams, TokenLogprobs

Json = dict[str, Any]


@dataclass(frozen=True)
class ExpectedChoice:
    """`shown` is the choice as it stands in the answer, but for its index."""

    shown: Json
    finish_reason: str
    num_tokens: int
    mean_logprob: float


class Expected:
    """The answer to `body`, in which every parameter is valid."""

    def __init__(self, body: Json) -> None:
        self._body = body
        self.prompts = [self._encode(prompt) for prompt in _prompts(body["prompt"])]
        self.num_generated = max(body.get("n", 1), body.get("best_of", 0))

    @property
    def is_poisoned(self) -> bool:
        return any(POISON in token_ids for token_ids, _ in self.prompts)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(token_ids) for token_ids, _ in self.prompts)

    @property
    def num_completion_tokens(self) -> int:
        """Those of choices that are not returned count too."""
        return sum(choice.num_tokens for choice in self.generated)

    @cached_property
    def num_full_tokens(self) -> int:
        """What the engine generates if nothing but tokens ends a choice."""
        total = 0
        for token_ids, _ in self.prompts:
            request = self._request(token_ids)
            if POISON in token_ids:
                continue
            if request.beam_search is not None:
                best = expected_beams(request, LIMITS.max_model_len)
                total += sum(len(beam.token_ids) for beam in best)
            else:
                for index in range(request.n):
                    total += len(expected_tokens(request, index, LIMITS.max_model_len))
        return total

    @property
    def generated(self) -> list[ExpectedChoice]:
        """All choices, of every prompt."""
        return [choice for choices in self._choices for choice in choices]

    @cached_property
    def choices(self) -> list[Json]:
        """As they stand in the answer."""
        n = self._body.get("n", 1)
        best = [
            sorted(choices, key=lambda choice: -choice.mean_logprob)[:n]
            if self.num_generated > n
            else choices
            for choices in self._choices
        ]
        returned = [choice for choices in best for choice in choices]
        return [{**choice.shown, "index": index} for index, choice in enumerate(returned)]

    @cached_property
    def _choices(self) -> list[list[ExpectedChoice]]:
        return [self._choices_of(token_ids, text) for token_ids, text in self.prompts]

    def _encode(self, prompt: str | list[int]) -> tuple[list[int], str]:
        """The token ids of a prompt, and its text as an echo shows it."""
        body = self._body
        token_ids = prompt
        if isinstance(prompt, str):
            token_ids = encode(prompt)
            if token_ids[:1] != [BOS] and body.get("add_special_tokens", True):
                token_ids = [BOS, *token_ids]
        assert isinstance(token_ids, list)
        limit = body.get("truncate_prompt_tokens", len(token_ids))
        is_left = body.get("truncation_side", "left") == "left"
        kept = token_ids[-limit:] if is_left else token_ids[:limit]
        if isinstance(prompt, str) and kept == token_ids:
            return kept, prompt
        return kept, decode(kept, names=not body.get("skip_special_tokens", True))

    def _request(self, token_ids: list[int]) -> Request:
        """What the engine is asked for a prompt, as far as the fake runner cares."""
        body = self._body
        wants_all = body.get("best_of", 0) > body.get("n", 1)
        num_logprobs = body.get("logprobs")
        stop_ids = [*body.get("stop_token_ids", []), *([] if body.get("ignore_eos") else [EOS])]
        return Request(
            "expected",
            token_ids,
            SamplingParams(
                seed=body["seed"],
                max_tokens=body["max_tokens"],
                stop_token_ids=tuple(stop_ids),
                logprobs=0 if num_logprobs is None and wants_all else num_logprobs,
            ),
            n=self.num_generated,
            beam_search=BeamSearch() if body.get("use_beam_search") else None,
        )

    def _choices_of(self, token_ids: list[int], text: str) -> list[ExpectedChoice]:
        request = self._request(token_ids)
        if request.beam_search is not None:
            best = expected_beams(request, LIMITS.max_model_len)
            return [self._choice(request, text, beam.token_ids, beam.logprobs) for beam in best]
        choices = []
        for index in range(request.n):
            generated = expected_tokens(request, index, LIMITS.max_model_len)
            logprobs = None
            if request.sampling.logprobs is not None:
                logprobs = expected_logprobs(request, generated)
            choices.append(self._choice(request, text, generated, logprobs))
        return choices

    def _choice(
        self,
        request: Request,
        prompt_text: str,
        token_ids: list[int],
        logprobs: list[TokenLogprobs] | None,
    ) -> ExpectedChoice:
        body = self._body
        echoed = prompt_text if body.get("echo") else ""
        is_stopped = token_ids[-1:] != [] and token_ids[-1] in request.sampling.stop_token_ids
        includes_stop = body.get("include_stop_str_in_output", False)
        names = not body.get("skip_special_tokens", True)
        shown = token_ids[:-1] if is_stopped and not includes_stop else token_ids
        stops = body.get("stop", [])
        text, num_used = decode(shown, names=names), len(token_ids)
        found = find_stop(shown, [stops] if isinstance(stops, str) else stops, names)
        if found is not None:
            text = text[: found.end if includes_stop else found.begin]
            is_stopped = True
            if found.num_tokens is not None:
                num_used = found.num_tokens
        reason = "stop" if is_stopped else "length"
        choice: Json = {"text": echoed + text, "logprobs": None, "finish_reason": reason}
        if body.get("logprobs") is not None:
            assert logprobs is not None
            entries = self._entries(shown[:num_used], logprobs, len(echoed), names)
            if found is not None:  # the tokens of the stop string are not shown
                entries = [entry for entry in entries if entry[3] < len(choice["text"])]
            if body.get("echo"):
                prompt_logprobs = expected_prompt_logprobs(request)
                entries = self._prompt_entries(request, echoed, prompt_logprobs) + entries
            choice["logprobs"] = _four_lists(entries)
        if body.get("return_token_ids"):
            choice["prompt_token_ids"] = request.prompt_token_ids
            choice["token_ids"] = token_ids[:num_used]
        if body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = [
                None
                if values is None
                else {
                    str(token_id): {
                        "logprob": values.logprob,
                        "rank": values.rank,
                        "decoded_token": token_name(token_id),
                    }
                }
                for token_id, values in zip(
                    request.prompt_token_ids, expected_prompt_logprobs(request), strict=True
                )
            ]
        used = [] if logprobs is None else [entry.logprob for entry in logprobs[:num_used]]
        mean = sum(used) / max(num_used, 1)
        return ExpectedChoice(choice, reason, num_used, mean)

    def _entries(
        self,
        token_ids: list[int],
        logprobs: list[TokenLogprobs],
        begin: int,
        names: bool,
    ) -> list[_Entry]:
        entries = []
        for position, token_id in enumerate(token_ids):
            offset = begin + _offset(token_ids, position, names)
            entries.append(self._entry(token_id, logprobs[position], offset))
        return entries

    def _prompt_entries(
        self, request: Request, echoed: str, logprobs: Sequence[TokenLogprobs | None]
    ) -> list[_Entry]:
        """The text shows special tokens that were written in it, not those that were added."""
        token_ids = request.prompt_token_ids
        entries, num_names = [], 0
        for position, token_id in enumerate(token_ids):
            offset = num_names + _offset(token_ids, position, False)
            entries.append(self._entry(token_id, logprobs[position], offset))
            name = SPECIAL_NAMES.get(token_id, "")
            if name and echoed.startswith(name, offset):
                num_names += len(name)
        return entries

    def _entry(self, token_id: int, logprobs: TokenLogprobs | None, offset: int) -> _Entry:
        name = self._name(token_id)
        if logprobs is None:
            return name, None, None, offset
        top = {
            self._name(other): value
            for other, value in zip(logprobs.top_token_ids, logprobs.top_logprobs, strict=True)
        }
        return name, logprobs.logprob, {**top, **{name: top.get(name, logprobs.logprob)}}, offset

    def _name(self, token_id: int) -> str:
        if self._body.get("return_tokens_as_token_ids"):
            return f"token_id:{token_id}"
        return token_name(token_id)


_Entry = tuple[str, float | None, dict[str, float] | None, int]


def _prompts(prompt: Any) -> list[Any]:
    if prompt is None or isinstance(prompt, str):
        return [prompt or ""]
    return [prompt] if isinstance(prompt[0], int) else prompt


def _four_lists(entries: list[_Entry]) -> Json:
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {name: [entry[i] for entry in entries] for i, name in enumerate(names)}


def _offset(token_ids: list[int], position: int, names: bool) -> int:
    """Where a token begins. One that brings the rest of a character begins where that does."""
    before = _whole_characters(data_of(token_ids[:position], names=names))
    text = _whole_characters(data_of(token_ids[: position + 1], names=names))[len(before) :]
    own = token_name(token_ids[position])
    return len(before) + (len(text) - len(own) if text.endswith(own) else 0)


def _whole_characters(data: bytes) -> str:
    """What can be told of a text whose last character may not be complete."""
    return codecs.utf_8_decode(data, "replace", False)[0]


@dataclass(frozen=True)
class FoundStop:
    """`num_tokens` after which it was sure, None if only the end of the text made it so."""

    begin: int
    end: int
    num_tokens: int | None


def find_stop(token_ids: list[int], stops: list[str], names: bool) -> FoundStop | None:
    """The match that begins first, and of those the shortest; sure once no earlier one can come."""
    if not stops:
        return None
    for num_tokens in range(1, len(token_ids) + 1):
        text = _whole_characters(data_of(token_ids[:num_tokens], names=names))
        match = _first_match(text, stops)
        if match is not None and not _may_match_before(text, stops, match[0]):
            return FoundStop(*match, num_tokens)
    match = _first_match(decode(token_ids, names=names), stops)
    return None if match is None else FoundStop(*match, None)


def _first_match(text: str, stops: list[str]) -> tuple[int, int] | None:
    found = [(text.find(stop), len(stop)) for stop in stops if stop in text]
    begin, length = min(found, default=(0, 0))
    return (begin, begin + length) if found else None


def _may_match_before(text: str, stops: list[str], begin: int) -> bool:
    return any(
        len(text) - start < len(stop) and stop.startswith(text[start:])
        for stop in stops
        for start in range(max(len(text) - len(stop) + 1, 0), begin)
    )
