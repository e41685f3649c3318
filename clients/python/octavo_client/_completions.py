"""`client.completions` for programs without an event loop; `_async_completions.py` has the other.

Knows signatures; what is sent is `_calls.py`'s business, and how `_transport.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, overload

from typing_extensions import Unpack

from octavo_client._async_completions import AsyncCompletions
from octavo_client._calls import completion_call, each_of_many, streaming
from octavo_client._completion_stream import CompletionStream
from octavo_client._many import CompletionResult, run_apart
from octavo_client._raw import RawResponse
from octavo_client._stream import Stream
from octavo_client._transport import AsyncTransport, Transport
from octavo_client._types import Completion, CreateParams, ManyParams, Prompt


class Completions:
    """`client.completions`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.with_raw_response = RawCompletions(transport)

    @overload
    def create(
        self, *, stream: Literal[False] = False, **params: Unpack[CreateParams]
    ) -> Completion: ...

    @overload
    def create(self, *, stream: Literal[True], **params: Unpack[CreateParams]) -> Stream: ...

    def create(
        self, *, stream: bool = False, **params: Unpack[CreateParams]
    ) -> Completion | Stream:
        """Complete a prompt: at once, or with `stream=True` chunk by chunk as it is written.

        Values are checked by the server: `BadRequestError.param` names a wrong one.
        """
        if stream:
            return self.with_raw_response.create(stream=True, **params).parse()
        return self.with_raw_response.create(**params).parse()

    @contextmanager
    def stream(self, **params: Unpack[CreateParams]) -> Iterator[CompletionStream]:
        """Complete a prompt as it is written: events, pieces of text, and the whole at the end.

        The request goes out when the `with` block is entered; leaving it closes the connection,
        upon which the server stops. Tokens are counted unless `stream_options` says otherwise.
        """
        with self.create(stream=True, **streaming(params)) as chunks:
            yield CompletionStream(chunks)

    def create_many(
        self,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = 16,
        progress: bool = False,
        **params: Unpack[ManyParams],
    ) -> list[CompletionResult]:
        """Complete each prompt by a request of its own, at most `concurrency` at a time.

        Results are in the order of the prompts; one that fails is a result with its error and
        leaves the others alone. `progress` shows a bar on standard error. Runs in an event loop of
        its own with connections of its own; Ctrl+C closes them. `ValueError` for a client with an
        `http_client` of the caller's: an `AsyncClient` can use one.
        """
        if self._transport.is_foreign:
            raise ValueError(
                "create_many() opens connections of its own and cannot use your http_client; "
                "give an httpx.AsyncClient to an AsyncClient and use its create_many()"
            )
        requests = each_of_many(prompts, params)  # here: an iterator may belong to this thread

        async def main() -> list[CompletionResult]:
            transport = AsyncTransport(self._transport.config)
            try:
                completions = AsyncCompletions(transport)
                return await completions._complete_all(requests, concurrency, progress)
            finally:
                await transport.close()

        return run_apart(main)


class RawCompletions:
    """`client.completions.with_raw_response`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @overload
    def create(
        self, *, stream: Literal[False] = False, **params: Unpack[CreateParams]
    ) -> RawResponse[Completion]: ...

    @overload
    def create(
        self, *, stream: Literal[True], **params: Unpack[CreateParams]
    ) -> RawResponse[Stream]: ...

    def create(
        self, *, stream: bool = False, **params: Unpack[CreateParams]
    ) -> RawResponse[Completion] | RawResponse[Stream]:
        """`completions.create` with what came over HTTP around it."""
        call = completion_call(self._transport.config, params, stream)
        return self._transport.stream(call) if stream else self._transport.send(call)
