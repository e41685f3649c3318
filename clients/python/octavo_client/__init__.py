"""The Python client of Octavo and of other servers with the OpenAI-style completions API.

Shares no code with the server and imports neither it nor torch.
"""

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
