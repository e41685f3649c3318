"""The chunks of a stream put together into the completion that they are pieces of.

Does no input or output. The result equals what the server would have answered without streaming.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from octavo_client._types import BaseResult, Completion, CompletionChoice, Logprobs, Usage


@dataclass(frozen=True)
class ChunkEvent:
    """A chunk as the server sent it, before the events that it gives rise to."""

    chunk: Completion
    type: Literal["chunk"] = "chunk"


@dataclass(frozen=True)
class TextDeltaEvent:
    """More of the text of choice `index`; `snapshot` is its text so far, `delta` included."""

    delta: str
    snapshot: str
    index: int
    logprobs: Logprobs | None = None
    type: Literal["text.delta"] = "text.delta"


@dataclass(frozen=True)
class TextDoneEvent:
    """Choice `index` is whole."""

    text: str
    index: int
    finish_reason: str
    type: Literal["text.done"] = "text.done"


CompletionEvent = ChunkEvent | TextDeltaEvent | TextDoneEvent


@dataclass
class _Choice:
    text: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    logprobs: dict[str, Any] = field(default_factory=dict)

    def add(self, choice: CompletionChoice) -> None:
        if choice.logprobs is not None:
            _merge(self.logprobs, _items(choice.logprobs, but="text_offset"))
            offsets = choice.logprobs.text_offset
            if self.text and offsets and offsets[0] == 0:
                # Some servers count from the start of each chunk instead of from the text's.
                offsets = [offset + len(self.text) for offset in offsets]
            _merge(self.logprobs, {"text_offset": offsets})
        self.text += choice.text
        _merge(self.fields, _items(choice, but="text logprobs"))

    def completed(self) -> dict[str, Any]:
        logprobs = Logprobs.model_validate(_copied(self.logprobs)) if self.logprobs else None
        return {**_copied(self.fields), "text": self.text, "logprobs": logprobs}


class CompletionFold:
    """What has come of a completion so far."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._request_id: str | None = None

    @property
    def usage(self) -> Usage | None:
        """The tokens counted so far, None until the server has told them."""
        return self._fields.get("usage")

    def text(self, index: int) -> str:
        """The text of a choice so far."""
        return self._choices[index].text if index in self._choices else ""

    def add(self, chunk: Completion) -> list[CompletionEvent]:
        """Take in the next chunk; what it tells."""
        self._request_id = chunk._request_id
        _merge(self._fields, _items(chunk, but="choices"))
        events: list[CompletionEvent] = [ChunkEvent(chunk)]
        for choice in chunk.choices:
            index, logprobs = choice.index, choice.logprobs
            folded = self._choices.setdefault(index, _Choice())
            folded.add(choice)
            if choice.text or logprobs is not None:
                events.append(TextDeltaEvent(choice.text, folded.text, index, logprobs))
            if choice.finish_reason is not None:
                events.append(TextDoneEvent(folded.text, index, choice.finish_reason))
        return events

    def snapshot(self) -> Completion:
        """All that has come, as one completion."""
        choices = [self._choices[index].completed() for index in sorted(self._choices)]
        completion = Completion.model_validate({**self._fields, "choices": choices})
        completion._request_id = self._request_id
        return completion


def _items(result: BaseResult, but: str) -> Iterable[tuple[str, Any]]:
    """What the server wrote of a result, fields unknown here too."""
    extra = result.model_extra or {}
    for name in result.model_fields_set:
        if name not in but.split():
            yield name, extra[name] if name in extra else getattr(result, name)


def _merge(into: dict[str, Any], items: Iterable[tuple[str, Any]] | Mapping[str, Any]) -> None:
    """Join lists, and let what comes later go before what came earlier; null says nothing."""
    for name, value in dict(items).items():
        if isinstance(value, list):
            joined = into.get(name)
            into[name] = joined if isinstance(joined, list) else []
            into[name] += value
        elif value is not None or name not in into:
            into[name] = value


def _copied(fields: dict[str, Any]) -> dict[str, Any]:
    """The same with lists that do not grow any more."""
    return {
        name: list(value) if isinstance(value, list) else value for name, value in fields.items()
    }
