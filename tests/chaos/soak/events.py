"""A stream of server-sent events, read as strictly as the API says it is written."""

from __future__ import annotations

import json
from typing import Any

from chaos.soak.answers import Expected, Json

_DONE = "data: [DONE]"


class Events:
    """`text` is a stream, or the beginning of one. Raises AssertionError for what is not right.

    `error` is the last event's, if it is one; `is_done`: it ended as streams end.
    """

    def __init__(self, text: str) -> None:
        *blocks, rest = text.split("\n\n")
        blocks = [block for block in blocks if block != ": keep-alive"]
        assert blocks.count(_DONE) <= 1, "[DONE] came twice"
        self.is_done = blocks[-1:] == [_DONE] and not rest
        if self.is_done:
            blocks.pop()
        self.chunks: list[Json] = []
        self.error: Json | None = None
        for block in blocks:
            assert self.error is None, "something came after an error"
            assert block.startswith("data: {") and "\n" not in block, f"no event: {block!r}"
            chunk = json.loads(block.removeprefix("data: "))
            if "error" in chunk:
                assert set(chunk) == {"error"}
                self.error = chunk["error"]
            else:
                self.chunks.append(chunk)

    def check_beginning(self, expected: Expected) -> None:
        """What came of an answer that was cut is the beginning of the right one."""
        if expected.is_poisoned:
            return
        choices = self._choices()
        for index, choice in choices.items():
            right = expected.choices[index]
            assert right["text"].startswith(choice["text"]), (choice, right)
            assert choice["finish_reason"] in (None, right["finish_reason"])

    def fold(self, options: Json) -> Json:
        """The answer that the stream says, in the shape of a whole one."""
        chunks = self.chunks
        usages = [chunk.pop("usage", "none") for chunk in chunks]
        usage = None
        if options.get("include_usage"):
            usage = usages.pop()
            assert chunks.pop()["choices"] == [], "the usage comes last, with no choice"
            assert isinstance(usage, dict)
        if options.get("continuous_usage_stats"):
            totals = [each["total_tokens"] for each in usages]
            assert totals == sorted(totals), f"usage went back: {totals}"
            assert usage is None or usages[-1] == usage
            usage = usages[-1]
        else:
            right = None if options.get("include_usage") else "none"
            assert all(each == right for each in usages), usages
        heads = [{name: chunk[name] for name in chunk if name != "choices"} for chunk in chunks]
        assert all(head == heads[0] for head in heads), "two answers in one stream"
        choices = self._choices()
        in_order = [choices[index] for index in sorted(choices)]
        return {**heads[0], "choices": in_order, "usage": usage}

    def _choices(self) -> dict[int, Json]:
        choices: dict[int, Json] = {}
        for chunk in self.chunks:
            for piece in chunk["choices"]:
                choice = choices.setdefault(piece["index"], {"text": "", "logprobs": None})
                assert choice.get("finish_reason") is None, "something came after a choice's end"
                assert piece["text"] or piece["finish_reason"], "an event says nothing"
                _append(choice, piece)
        return choices


def _append(choice: Json, piece: Json) -> None:
    is_first = "index" not in choice
    choice["index"] = piece["index"]
    choice["text"] += piece["text"]
    choice["finish_reason"] = piece["finish_reason"]
    if piece["logprobs"] is not None:
        lists: dict[str, list[Any]] = choice["logprobs"] or {name: [] for name in piece["logprobs"]}
        choice["logprobs"] = {name: lists[name] + piece["logprobs"][name] for name in lists}
    if "prompt_token_ids" in piece:
        assert is_first, "the prompt comes once"
        choice["prompt_token_ids"] = piece["prompt_token_ids"]
    if "token_ids" in piece:
        choice["token_ids"] = choice.get("token_ids", []) + piece["token_ids"]
