"""HTTP answers in, results and errors out: what the sync and the async client have in common.

Does no input or output; takes what httpx has read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

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
from octavo_client._sse import EventTooLongError, SSEDecoder
from octavo_client._types import Completion

Result = TypeVar("Result", bound=BaseModel)

_ERROR_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}
_MAX_SHOWN = 200


def request_id_of(response: httpx.Response) -> str | None:
    request_id: str | None = response.headers.get("x-request-id")
    return request_id


def parse(response: httpx.Response, result_type: type[Result]) -> Result:
    """The result in a response that was read; `APIStatusError` or `APIResponseError`."""
    if not response.is_success:
        raise status_error(response)
    try:
        return result_type.model_validate_json(response.content)
    except ValidationError as error:
        raise APIResponseError(
            f"{response.url} does not answer as the API does: {_first_line(error)}",
            request_id=request_id_of(response),
            body=response.text,
        ) from error


def status_error(response: httpx.Response) -> APIStatusError:
    """The error of a response that was read, from the API's envelope or from any other body."""
    status = response.status_code
    body: object
    try:
        body = json.loads(response.content)
    except ValueError:
        body = response.text
    said = _error_object(body)
    message = _text(said.get("message")) or f"HTTP {status} from {response.url}"
    if not said and response.text:
        message += f": {response.text[:_MAX_SHOWN]}"
    default = InternalServerError if status >= 500 else APIStatusError
    return _ERROR_BY_STATUS.get(status, default)(
        message,
        status_code=status,
        retry_after=_seconds(response.headers.get("retry-after")),
        type=_text(said.get("type")),
        code=_text(said.get("code")),
        param=_text(said.get("param")),
        request_id=request_id_of(response),
        body=body,
    )


def transport_error(error: httpx.TransportError, request: httpx.Request) -> APIConnectionError:
    """What a failed exchange is called here."""
    words = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return APITimeoutError(f"no answer from {request.url} in time: {words}")
    return APIConnectionError(f"no answer from {request.url}: {words}")


class ChunkParser:
    """The bytes of a completion's event stream in, chunks out.

    `done` says whether the end mark has come; what follows it is ignored.
    """

    def __init__(self, request_id: str | None) -> None:
        self.done = False
        self._request_id = request_id
        self._decoder = SSEDecoder()

    def feed(self, piece: bytes) -> Iterator[Completion]:
        """The chunks that `piece` completes; an error among them is raised after those before."""
        if self.done:
            return
        try:
            events = self._decoder.feed(piece)
        except EventTooLongError as error:
            raise self._bad(str(error)) from error
        for event in events:
            if event.data == "[DONE]":
                self.done = True
                return
            yield self._chunk(event.data)

    def lost(self, error: httpx.TransportError) -> APIConnectionError:
        """What a connection that fails in the middle of the stream is called."""
        words = str(error) or type(error).__name__
        if isinstance(error, httpx.TimeoutException):
            return APITimeoutError(
                f"the stream stood still for too long: {words}", request_id=self._request_id
            )
        return IncompleteStreamError(
            f"the connection was lost in the middle of the stream: {words}",
            request_id=self._request_id,
        )

    def finish(self) -> None:
        """Say that the stream has ended; `IncompleteStreamError` without its end mark."""
        if not self.done:
            raise IncompleteStreamError(
                "the stream ended without its end mark [DONE]", request_id=self._request_id
            )

    def _chunk(self, data: str) -> Completion:
        try:
            body = json.loads(data)
        except ValueError as error:
            raise self._bad(f"not JSON: {data[:_MAX_SHOWN]}") from error
        said = _error_object(body)
        if said:
            raise APIError(
                _text(said.get("message")) or "the server ended the stream with an error",
                type=_text(said.get("type")),
                code=_text(said.get("code")),
                param=_text(said.get("param")),
                request_id=self._request_id,
                body=body,
            )
        try:
            return Completion.model_validate(body)
        except ValidationError as error:
            raise self._bad(_first_line(error)) from error

    def _bad(self, why: str) -> APIResponseError:
        return APIResponseError(
            f"the stream has an event that the API does not have: {why}",
            request_id=self._request_id,
        )


def _error_object(body: object) -> dict[str, object]:
    """The `error` object of an envelope; {} where there is none."""
    if isinstance(body, dict):
        error = body.get("error")
        if isinstance(error, dict):
            return error
        if isinstance(error, str):
            return {"message": error}
    return {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _seconds(value: str | None) -> float | None:
    """A `Retry-After` in seconds; None for its other form, a date."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _first_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
