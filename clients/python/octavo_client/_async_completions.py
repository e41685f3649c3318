"""`client.completions` for programs with an event loop: `_completions.py` with `await`.

Knows signatures; what is sent is `_calls.py`'s business, and how `_transport.py`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Literal, overload

from typing_extensions import Unpack

from octavo_client._calls import completion_call, each_of_many, streaming
from octavo_client._completion_stream import AsyncCompletionStream
from octavo_client._many import CompletionResult, complete_many
from octavo_client._raw import RawResponse
from octavo_client._stream import AsyncStream
from octavo_client._transport import AsyncTransport
from octavo_client._types import Completion, CreateParams, ManyParams, Prompt


class AsyncCompletions:
    """`client.completions`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self.with_raw_response = AsyncRawCompletions(transport)

    @overload
    async def create(
        self, *, stream: Literal[False] = False, **params: Unpack[CreateParams]
    ) -> Completion: ...

    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[CreateParams]
    ) -> AsyncStream: ...

    async def create(
        self, *, stream: bool = False, **params: Unpack[CreateParams]
    ) -> Completion | AsyncStream:
        """Complete a prompt: at once, or with `stream=True` chunk by chunk as it is written.

        Values are checked by the server: `BadRequestError.param` names a wrong one.
        """
        if stream:
            return (await self.with_raw_response.create(stream=True, **params)).parse()
        return (await self.with_raw_response.create(**params)).parse()

    @asynccontextmanager
    async def stream(self, **params: Unpack[CreateParams]) -> AsyncIterator[AsyncCompletionStream]:
        """Complete a prompt as it is written: events, pieces of text, and the whole at the end.

        The request goes out when the `async with` block is entered; leaving it closes the
        connection, upon which the server stops. Tokens are counted unless `stream_options` says
        otherwise.
        """
        async with await self.create(stream=True, **streaming(params)) as chunks:
            yield AsyncCompletionStream(chunks)

    async def create_many(
        self,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 16,
        progress: bool = False,
        **params: Unpack[ManyParams],
    ) -> list[CompletionResult]:
        """Complete each prompt by a request of its own, at most `concurrency` at a time.

        Results are in the order of the prompts; one that fails is a result with its error and
        leaves the others alone. `progress` shows a bar on standard error. Cancelling it closes the
        connections of the requests that are under way.
        """
        return await self._complete_all(each_of_many(prompts, params), concurrency, progress)

    async def _complete_all(
        self, requests: Sequence[CreateParams], concurrency: int, progress: bool
    ) -> list[CompletionResult]:
        """What `create_many` does with its prompts, once each has its parameters."""

        async def create(request: CreateParams) -> Completion:
            return await self.create(**request)

        return await complete_many(create, requests, concurrency, progress)


class AsyncRawCompletions:
    """`client.completions.with_raw_response`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    @overload
    async def create(
        self, *, stream: Literal[False] = False, **params: Unpack[CreateParams]
    ) -> RawResponse[Completion]: ...

    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[CreateParams]
    ) -> RawResponse[AsyncStream]: ...

    async def create(
        self, *, stream: bool = False, **params: Unpack[CreateParams]
    ) -> RawResponse[Completion] | RawResponse[AsyncStream]:
        """`completions.create` with what came over HTTP around it."""
        call = completion_call(self._transport.config, params, stream)
        if stream:
            return await self._transport.stream(call)
        return await self._transport.send(call)
