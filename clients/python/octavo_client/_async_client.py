"""The client for programs with an event loop: `_client.py` with `await`.

Knows paths and parameters; what answers mean is `_wire.py`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Literal, TypeVar, overload

import httpx
from pydantic import BaseModel
from typing_extensions import Self, Unpack

from octavo_client._config import LIMITS, ClientConfig
from octavo_client._stream import AsyncStream
from octavo_client._types import Completion, CompletionParams, Health, Model, ModelList
from octavo_client._wire import parse, status_error, transport_error

Result = TypeVar("Result", bound=BaseModel)


class AsyncClient:
    """A server of the completions API. Use one for many calls: it keeps connections open.

    `base_url` ends in `/v1` (default: `OCTAVO_BASE_URL`, then `http://127.0.0.1:8000/v1`);
    `api_key` defaults to `OCTAVO_API_KEY`; `timeout` is in seconds without a sign of life, or an
    `httpx.Timeout`. An `http_client` of the caller's own stays the caller's to close. Every
    failure of a call is an `APIError`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | httpx.Timeout | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._config = ClientConfig.resolve(base_url, api_key, timeout)
        self._owns_http = http_client is None
        self._http = http_client or httpx.AsyncClient(limits=LIMITS)
        self.completions = AsyncCompletions(self)
        self.models = AsyncModels(self)

    @property
    def base_url(self) -> str:
        return self._config.base_url

    async def health(self) -> Health:
        """Whether the server can answer; `InternalServerError` (503) while it cannot."""
        return await self._get(f"{self._config.root_url}/health", Health)

    async def close(self) -> None:
        """Close all connections. Safe to call more than once."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _get(self, url: str, result_type: type[Result]) -> Result:
        request = self._request("GET", url, None, None)
        return parse(await self._send(request), result_type)

    def _request(
        self,
        method: str,
        url: str,
        body: Mapping[str, object] | None,
        timeout: float | httpx.Timeout | None,
    ) -> httpx.Request:
        return self._http.build_request(
            method,
            url,
            json=body,
            headers=self._config.headers,
            timeout=self._config.timeout if timeout is None else timeout,
        )

    async def _send(self, request: httpx.Request, stream: bool = False) -> httpx.Response:
        try:
            return await self._http.send(request, stream=stream)
        except httpx.TransportError as error:
            raise transport_error(error, request) from error


class AsyncCompletions:
    """`client.completions`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @overload
    async def create(
        self,
        *,
        stream: Literal[False] = False,
        extra_body: Mapping[str, object] | None = None,
        timeout: float | httpx.Timeout | None = None,
        **params: Unpack[CompletionParams],
    ) -> Completion: ...

    @overload
    async def create(
        self,
        *,
        stream: Literal[True],
        extra_body: Mapping[str, object] | None = None,
        timeout: float | httpx.Timeout | None = None,
        **params: Unpack[CompletionParams],
    ) -> AsyncStream: ...

    async def create(
        self,
        *,
        stream: bool = False,
        extra_body: Mapping[str, object] | None = None,
        timeout: float | httpx.Timeout | None = None,
        **params: Unpack[CompletionParams],
    ) -> Completion | AsyncStream:
        """Complete a prompt: at once, or with `stream=True` as it is written.

        `extra_body` is for parameters that this client has no name for. Parameters are checked by
        the server: `BadRequestError.param` names a wrong one.
        """
        client = self._client
        body = {**params, "stream": stream, **(extra_body or {})}
        request = client._request("POST", f"{client.base_url}/completions", body, timeout)
        if not stream:
            return parse(await client._send(request), Completion)
        response = await client._send(request, stream=True)
        if not response.is_success:
            try:
                await response.aread()
            except httpx.TransportError as error:
                raise transport_error(error, request) from error
            finally:
                await response.aclose()
            raise status_error(response)
        return AsyncStream(response)


class AsyncModels:
    """`client.models`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> ModelList:
        """The models that the server serves."""
        return await self._client._get(f"{self._client.base_url}/models", ModelList)

    async def retrieve(self, model: str) -> Model:
        """One of them; `NotFoundError` if it is not served."""
        return await self._client._get(f"{self._client.base_url}/models/{model}", Model)
