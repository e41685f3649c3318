"""The Python client of Octavo and of other servers with the OpenAI-style completions API.

Shares no code with the server and imports neither it nor torch. A name is imported when it is first
used: the command `octavo` lies in this package too and shows its help without httpx and pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo_client._async_client import AsyncClient
    from octavo_client._client import Client
    from octavo_client._completion_stream import AsyncCompletionStream, CompletionStream
    from octavo_client._config import ClientOptions
    from octavo_client._errors import (
        APIConnectionError,
        APIError,
        APIResponseValidationError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        ConflictError,
        IncompleteStreamError,
        InternalServerError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        UnprocessableEntityError,
    )
    from octavo_client._fold import ChunkEvent, CompletionEvent, TextDeltaEvent, TextDoneEvent
    from octavo_client._many import CompletionResult
    from octavo_client._raw import RawResponse
    from octavo_client._stream import AsyncStream, Stream
    from octavo_client._types import (
        CallOptions,
        Completion,
        CompletionChoice,
        CompletionParams,
        CreateParams,
        Detokenization,
        Health,
        Logprobs,
        ManyParams,
        Model,
        ModelList,
        Prompt,
        SamplingParams,
        StreamOptions,
        Tokenization,
        Usage,
    )
else:
    # The module of each name that is neither an error nor one of `_types`.
    _HOMES = {
        "AsyncClient": "_async_client",
        "Client": "_client",
        "AsyncCompletionStream": "_completion_stream",
        "CompletionStream": "_completion_stream",
        "ClientOptions": "_config",
        "ChunkEvent": "_fold",
        "CompletionEvent": "_fold",
        "TextDeltaEvent": "_fold",
        "TextDoneEvent": "_fold",
        "CompletionResult": "_many",
        "RawResponse": "_raw",
        "AsyncStream": "_stream",
        "Stream": "_stream",
    }

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = _HOMES.get(name, "_errors" if name.endswith("Error") else "_types")
        home = importlib.import_module(f"{__name__}.{module}")
        value = globals()[name] = getattr(home, name)
        return value

    def __dir__():
        return [*globals(), *__all__]


__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AsyncCompletionStream",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "CallOptions",
    "ChunkEvent",
    "Client",
    "ClientOptions",
    "Completion",
    "CompletionChoice",
    "CompletionEvent",
    "CompletionParams",
    "CompletionResult",
    "CompletionStream",
    "ConflictError",
    "CreateParams",
    "Detokenization",
    "Health",
    "IncompleteStreamError",
    "InternalServerError",
    "Logprobs",
    "ManyParams",
    "Model",
    "ModelList",
    "NotFoundError",
    "PermissionDeniedError",
    "Prompt",
    "RateLimitError",
    "RawResponse",
    "SamplingParams",
    "Stream",
    "StreamOptions",
    "TextDeltaEvent",
    "TextDoneEvent",
    "Tokenization",
    "UnprocessableEntityError",
    "Usage",
]
