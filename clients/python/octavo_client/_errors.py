"""What the client raises. Everything is an `APIError`.

APIError                           also: an error that the server sends in the middle of a stream
├── APIStatusError                 an HTTP status that is not success
│   ├── BadRequestError            400
│   ├── AuthenticationError        401
│   ├── PermissionDeniedError      403
│   ├── NotFoundError              404
│   ├── ConflictError              409
│   ├── UnprocessableEntityError   422
│   ├── RateLimitError             429
│   └── InternalServerError        500 and above
├── APIResponseValidationError     success, but not in the form that the API has
└── APIConnectionError             no connection, or it was lost
    ├── APITimeoutError            nothing came for too long
    └── IncompleteStreamError      the stream ended before its end mark

The names are those of the `openai` library but for the last, which that does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx  # the command `octavo` shows its help without it


class APIError(Exception):
    """Something went wrong between the call and its answer.

    `type`, `code` and `param` are the server's words from its error object, `body` is all it said,
    as parsed JSON or as text, and `request_id` is what its log calls this request. `status_code`
    and `response` are HTTP's, `retry_after` the seconds after which the server wants to be asked
    again. Each is None where there is none. `attempts` is how many times the request was sent.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: object = None,
        response: httpx.Response | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.type = type
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body
        self.response = response
        self.attempts = 1

    def __str__(self) -> str:
        return f"{self.message} ({self.attempts} attempts)" if self.attempts > 1 else self.message


class APIStatusError(APIError):
    """An HTTP status that is not success."""

    status_code: int
    response: httpx.Response


class BadRequestError(APIStatusError):
    """400: the request is wrong; `param` may say where."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing or unknown."""


class PermissionDeniedError(APIStatusError):
    """403: the API key may not do this."""


class NotFoundError(APIStatusError):
    """404: no such model or path."""


class ConflictError(APIStatusError):
    """409: the server is in a state in which it cannot do this."""


class UnprocessableEntityError(APIStatusError):
    """422: the request is well-formed and cannot be served."""


class RateLimitError(APIStatusError):
    """429: too many requests; see `retry_after`."""


class InternalServerError(APIStatusError):
    """500 and above: the server failed or is too busy; see `retry_after`."""


class APIResponseValidationError(APIError):
    """The server answered with success, but not in the form that the API has."""


class APIConnectionError(APIError):
    """No connection to the server, or it was lost before the answer was whole."""


class APITimeoutError(APIConnectionError):
    """The server said nothing for longer than the timeout."""


class IncompleteStreamError(APIConnectionError):
    """The stream ended before its end mark: what came of the text is not all of it."""
