"""What `completions.stream` gives: a stream that reads itself out, piece by piece or as a whole.

`Stream` yields what the server sends; this yields what it means, and folds it as it goes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType

from typing_extensions import Self

from octavo_client._errors import IncompleteStreamError
from octavo_client._fold import CompletionEvent, CompletionFold, TextDeltaEvent
from octavo_client._stream import AsyncStream, Stream
from octavo_client._types import Completion, Usage

FIRST_CHOICE = 0


class _Progress:
    """How far a stream has come: what its sync and its async form tell without waiting."""

    def __init__(self, request_id: str | None) -> None:
        self.request_id = request_id
        self._fold = CompletionFold()
        self._is_whole = False

    @property
    def text(self) -> str:
        """The text of the first choice so far."""
        return self._fold.text(FIRST_CHOICE)

    @property
    def usage(self) -> Usage | None:
        """The tokens, which servers count at the end; None before that."""
        return self._fold.usage

    @property
    def current_completion_snapshot(self) -> Completion:
        """All that has come so far, as one completion."""
        return self._fold.snapshot()

    def _final(self) -> Completion:
        if not self._is_whole:
            raise IncompleteStreamError(
                "the stream was left before its end; current_completion_snapshot has what came",
                request_id=self.request_id,
            )
        return self._fold.snapshot()


class CompletionStream(_Progress):
    """The events of a completion as it is written; iterate over it or over `text_deltas`."""

    def __init__(self, chunks: Stream) -> None:
        super().__init__(chunks.request_id)
        self._chunks = chunks
        self._events = self._read()

    def __iter__(self) -> Iterator[CompletionEvent]:
        return self._events

    def __next__(self) -> CompletionEvent:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def text_deltas(self) -> Iterator[str]:
        """The text of the first choice, piece by piece."""
        for event in self:
            if isinstance(event, TextDeltaEvent) and event.index == FIRST_CHOICE and event.delta:
                yield event.delta

    def until_done(self) -> Self:
        """Read the rest of the stream."""
        for _ in self:
            pass
        return self

    def get_final_completion(self) -> Completion:
        """Read the rest, and return the whole; an `APIError` if the stream broke or was left."""
        return self.until_done()._final()

    def close(self) -> None:
        """End the stream here. Safe to call more than once."""
        self._chunks.close()

    def _read(self) -> Iterator[CompletionEvent]:
        for chunk in self._chunks:
            yield from self._fold.add(chunk)
        self._is_whole = not self._chunks.is_closed


class AsyncCompletionStream(_Progress):
    """`CompletionStream` for `async for`."""

    def __init__(self, chunks: AsyncStream) -> None:
        super().__init__(chunks.request_id)
        self._chunks = chunks
        self._events = self._read()

    def __aiter__(self) -> AsyncIterator[CompletionEvent]:
        return self._events

    async def __anext__(self) -> CompletionEvent:
        return await anext(self._events)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    async def text_deltas(self) -> AsyncIterator[str]:
        """The text of the first choice, piece by piece."""
        async for event in self:
            if isinstance(event, TextDeltaEvent) and event.index == FIRST_CHOICE and event.delta:
                yield event.delta

    async def until_done(self) -> Self:
        """Read the rest of the stream."""
        async for _ in self:
            pass
        return self

    async def get_final_completion(self) -> Completion:
        """Read the rest, and return the whole; an `APIError` if the stream broke or was left."""
        return (await self.until_done())._final()

    async def close(self) -> None:
        """End the stream here. Safe to call more than once."""
        await self._chunks.close()

    async def _read(self) -> AsyncIterator[CompletionEvent]:
        async for chunk in self._chunks:
            for event in self._fold.add(chunk):
                yield event
        self._is_whole = not self._chunks.is_closed
