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
    from octavo_client._errors import (
        APIConnectionError,
        APIError,
        APIResponseError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        IncompleteStreamError,
        InternalServerError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        UnprocessableEntityError,
    )
    from octavo_client._stream import AsyncStream, Stream
    from octavo_client._types import (
        Completion,
        CompletionChoice,
        CompletionParams,
        Health,
        Logprobs,
        Model,
        ModelList,
        StreamOptions,
        Usage,
    )
else:
    _HOMES = {
        "AsyncClient": "_async_client",
        "AsyncStream": "_stream",
        "Client": "_client",
        "Stream": "_stream",
        **dict.fromkeys(
            ("Completion", "CompletionChoice", "CompletionParams", "Health", "Logprobs", "Model")
            + ("ModelList", "StreamOptions", "Usage"),
            "_types",
        ),
    }

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(f"{__name__}.{_HOMES.get(name, '_errors')}")
        value = globals()[name] = getattr(home, name)
        return value

    def __dir__():
        return [*globals(), *__all__]


__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "Completion",
    "CompletionChoice",
    "CompletionParams",
    "Health",
    "IncompleteStreamError",
    "InternalServerError",
    "Logprobs",
    "Model",
    "ModelList",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "Stream",
    "StreamOptions",
    "UnprocessableEntityError",
    "Usage",
]
