"""A completion while it is being written: an iterator of chunks and a context manager.

Leaving the `with` block, or `close()`, tells the server to stop. Iterating to the end returns the
connection to the pool; a stream that ends without its end mark raises `IncompleteStreamError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType

import httpx
from typing_extensions import Self

from octavo_client._envelope import request_id_of
from octavo_client._types import Completion
from octavo_client._wire import ChunkParser


class Stream:
    """The chunks of one completion, as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.request_id = request_id_of(response)
        self.is_closed = False
        self._chunks = self._read()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Completion:
        if self.is_closed:
            raise StopIteration
        return next(self._chunks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream here. Safe to call more than once."""
        self.is_closed = True
        self.response.close()

    def _read(self) -> Iterator[Completion]:
        parser = ChunkParser(self.request_id)
        try:
            # To the body's end, past the end mark, so that the connection can be used again.
            for piece in self.response.iter_bytes():
                yield from parser.feed(piece)
        except httpx.RequestError as error:
            if not parser.done:
                raise parser.lost(error) from error
        finally:
            self.response.close()
        parser.finish()


class AsyncStream:
    """The chunks of one completion, as they come, for `async for`."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.request_id = request_id_of(response)
        self.is_closed = False
        self._chunks = self._read()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Completion:
        if self.is_closed:
            raise StopAsyncIteration
        return await anext(self._chunks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the stream here. Safe to call more than once."""
        self.is_closed = True
        await self.response.aclose()

    async def _read(self) -> AsyncIterator[Completion]:
        parser = ChunkParser(self.request_id)
        try:
            async for piece in self.response.aiter_bytes():
                for chunk in parser.feed(piece):
                    yield chunk
        except httpx.RequestError as error:
            if not parser.done:
                raise parser.lost(error) from error
        finally:
            await self.response.aclose()
        parser.finish()
