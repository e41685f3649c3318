"""Calls over httpx, sent again where that helps: once with a thread that waits, once with a loop.

Knows nothing of what is called; `_calls.py` does. Streams are retried up to their first byte only.
"""

from __future__ import annotations

import asyncio
import time

import httpx

from octavo_client._calls import Call
from octavo_client._config import LIMITS, ClientConfig
from octavo_client._envelope import status_error, transport_error
from octavo_client._raw import RawResponse
from octavo_client._retry import Attempts
from octavo_client._stream import AsyncStream, Stream
from octavo_client._types import Completion
from octavo_client._wire import Result


class Transport:
    """Connections and how to use them. Those of an `http` from outside are not closed here.

    `is_foreign` says that the caller of the library has made them.
    """

    def __init__(self, config: ClientConfig, http: httpx.Client | None = None) -> None:
        self.config = config
        self.is_foreign = http is not None
        self._owns_http = http is None
        self._http = http or httpx.Client(limits=LIMITS)

    def replaced(self, config: ClientConfig) -> Transport:
        """Another `config` over the same connections, which stay this one's to close."""
        transport = Transport(config, self._http)
        transport.is_foreign = self.is_foreign
        return transport

    def close(self) -> None:
        if self._owns_http:
            self._http.close()

    def send(self, call: Call[Result]) -> RawResponse[Result]:
        """The whole answer to a call; an `APIError` if it is not success."""
        response, attempts = self._open(call, is_stream=False)
        return RawResponse(response, call.parse, attempts.num_made)

    def stream(self, call: Call[Completion]) -> RawResponse[Stream]:
        """The answer as soon as it begins; an `APIError` if it is not success."""
        response, attempts = self._open(call, is_stream=True)
        return RawResponse(response, Stream, attempts.num_made)

    def _open(self, call: Call[Result], is_stream: bool) -> tuple[httpx.Response, Attempts]:
        attempts = Attempts(call.retries(self.config))
        while True:
            request = call.request(self._http, self.config)
            try:
                response = self._http.send(request, stream=is_stream)
                if response.is_success:
                    return response, attempts
                try:
                    response.read()
                finally:
                    response.close()
                wait = attempts.next_wait(status_error(response))
            except httpx.RequestError as error:
                wait = attempts.next_wait(transport_error(error, request), error)
            time.sleep(wait)


class AsyncTransport:
    """`Transport` with `await`."""

    def __init__(self, config: ClientConfig, http: httpx.AsyncClient | None = None) -> None:
        self.config = config
        self.is_foreign = http is not None
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient(limits=LIMITS)

    def replaced(self, config: ClientConfig) -> AsyncTransport:
        transport = AsyncTransport(config, self._http)
        transport.is_foreign = self.is_foreign
        return transport

    async def close(self) -> None:
        if self._owns_http:
            await self._http.aclose()

    async def send(self, call: Call[Result]) -> RawResponse[Result]:
        response, attempts = await self._open(call, is_stream=False)
        return RawResponse(response, call.parse, attempts.num_made)

    async def stream(self, call: Call[Completion]) -> RawResponse[AsyncStream]:
        response, attempts = await self._open(call, is_stream=True)
        return RawResponse(response, AsyncStream, attempts.num_made)

    async def _open(self, call: Call[Result], is_stream: bool) -> tuple[httpx.Response, Attempts]:
        attempts = Attempts(call.retries(self.config))
        while True:
            request = call.request(self._http, self.config)
            try:
                response = await self._http.send(request, stream=is_stream)
                if response.is_success:
                    return response, attempts
                try:
                    await response.aread()
                finally:
                    await response.aclose()
                wait = attempts.next_wait(status_error(response))
            except httpx.RequestError as error:
                wait = attempts.next_wait(transport_error(error, request), error)
            await asyncio.sleep(wait)
