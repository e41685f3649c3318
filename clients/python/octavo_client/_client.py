"""The client for programs without an event loop. `_async_client.py` is the same with one.

Knows signatures; what is sent is `_calls.py`'s business, and how `_transport.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import httpx
from typing_extensions import Self, Unpack

from octavo_client._calls import (
    detokenize_call,
    health_call,
    model_call,
    models_call,
    tokenize_call,
)
from octavo_client._completions import Completions
from octavo_client._config import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT,
    ClientConfig,
    ClientOptions,
    Query,
    Timeout,
)
from octavo_client._raw import RawResponse
from octavo_client._transport import Transport
from octavo_client._types import (
    CallOptions,
    Detokenization,
    Health,
    Model,
    ModelList,
    Tokenization,
)


class Client:
    """A server of the completions API. Use one for many calls: it keeps connections open.

    `base_url` ends in `/v1` (default: `OCTAVO_BASE_URL`, then `OPENAI_BASE_URL`, then
    `http://127.0.0.1:8000/v1`); `api_key` defaults to `OCTAVO_API_KEY`, then `OPENAI_API_KEY`.
    `timeout` is in seconds without a sign of life, None for no end, or an `httpx.Timeout`.
    Requests that fail on the way, or that the server wants to see again later, are sent
    `max_retries` times more. `default_headers` and `default_query` are for what a gateway in front
    wants of every request. An `http_client` of the caller's own stays the caller's to close. Every
    failure of a call is an `APIError`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_MAX_RETRIES,
        default_headers: Mapping[str, str] | None = None,
        default_query: Query | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        config = ClientConfig.resolve(
            base_url, api_key, timeout, max_retries, default_headers, default_query
        )
        self._use(Transport(config, http_client))

    def _use(self, transport: Transport) -> None:
        self._transport = transport
        self.completions = Completions(transport)
        self.models = Models(transport)
        self.with_raw_response = RawClient(transport)

    @property
    def base_url(self) -> str:
        return self._transport.config.base_url

    def with_options(self, **options: Unpack[ClientOptions]) -> Self:
        """A client with other options over the same connections, which stay this one's to close.

        For a single call: `client.with_options(max_retries=0).completions.create(...)`.
        """
        client = self.__class__.__new__(self.__class__)
        client._use(self._transport.replaced(self._transport.config.replaced(options)))
        return client

    def tokenize(
        self,
        prompt: str,
        *,
        model: str | None = None,
        add_special_tokens: bool = True,
        return_token_strs: bool = False,
        **options: Unpack[CallOptions],
    ) -> Tokenization:
        """The token ids of a text, as Octavo, vLLM and SGLang tell them."""
        call = tokenize_call(
            self._transport.config, prompt, model, add_special_tokens, return_token_strs, options
        )
        return self._transport.send(call).parse()

    def detokenize(
        self, tokens: Sequence[int], *, model: str | None = None, **options: Unpack[CallOptions]
    ) -> Detokenization:
        """The text of token ids, in `prompt`."""
        call = detokenize_call(self._transport.config, tokens, model, options)
        return self._transport.send(call).parse()

    def health(self, **options: Unpack[CallOptions]) -> Health:
        """Whether the server can answer; `InternalServerError` (503) while it cannot.

        Asked once: here a failure is an answer, and nothing is gained by trying again.
        """
        return self._transport.send(health_call(self._transport.config, options)).parse()

    def close(self) -> None:
        """Close all connections. Safe to call more than once."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Models:
    """`client.models`."""

    def __init__(self, transport: Transport) -> None:
        self.with_raw_response = RawModels(transport)

    def list(self, **options: Unpack[CallOptions]) -> ModelList:
        """The models that the server serves."""
        return self.with_raw_response.list(**options).parse()

    def retrieve(self, model: str, **options: Unpack[CallOptions]) -> Model:
        """One of them; `NotFoundError` if it is not served."""
        return self.with_raw_response.retrieve(model, **options).parse()


class RawModels:
    """`client.models.with_raw_response`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, **options: Unpack[CallOptions]) -> RawResponse[ModelList]:
        return self._transport.send(models_call(self._transport.config, options))

    def retrieve(self, model: str, **options: Unpack[CallOptions]) -> RawResponse[Model]:
        return self._transport.send(model_call(self._transport.config, model, options))


class RawClient:
    """`client.with_raw_response`: the same calls with what came over HTTP around their results."""

    def __init__(self, transport: Transport) -> None:
        self.completions = Completions(transport).with_raw_response
        self.models = RawModels(transport)
