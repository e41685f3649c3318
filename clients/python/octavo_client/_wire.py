"""HTTP answers in, results out: what the sync and the async client have in common.

Does no input or output; takes what httpx has read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeVar

import httpx
from pydantic import ValidationError

from octavo_client._envelope import (
    MAX_SHOWN,
    read_error,
    request_id_of,
    status_error,
    stream_error,
)
from octavo_client._errors import (
    APIError,
    APIResponseValidationError,
    APITimeoutError,
    IncompleteStreamError,
)
from octavo_client._sse import EventTooLongError, ServerSentEvent, SSEDecoder
from octavo_client._types import BaseResult, Completion, Health

Result = TypeVar("Result", bound=BaseResult)


def parse(response: httpx.Response, result_type: type[Result]) -> Result:
    """The result in a response that was read; `APIStatusError` or `APIResponseValidationError`."""
    if not response.is_success:
        raise status_error(response)
    request_id = request_id_of(response)
    # vLLM and SGLang are healthy without a word.
    content = response.content or (b"{}" if result_type is Health else b"")
    try:
        result = result_type.model_validate_json(content)
    except ValidationError as error:
        raise APIResponseValidationError(
            f"{response.url} does not answer as the API does: {_first_line(error)}",
            status_code=response.status_code,
            request_id=request_id,
            body=response.text,
            response=response,
        ) from error
    result._request_id = request_id
    return result


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
            yield self._chunk(event)

    def lost(self, error: httpx.RequestError) -> APIError:
        """What a connection that fails in the middle of the stream is called."""
        words = str(error) or type(error).__name__
        if isinstance(error, httpx.TimeoutException):
            return APITimeoutError(
                f"the stream stood still for too long: {words}", request_id=self._request_id
            )
        if isinstance(error, httpx.DecodingError):
            return self._bad(words)
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

    def _chunk(self, event: ServerSentEvent) -> Completion:
        try:
            body = json.loads(event.data)
        except ValueError as error:
            if event.event == "error":
                raise stream_error(event.data, self._request_id) from error
            raise self._bad(f"not JSON: {event.data[:MAX_SHOWN]}") from error
        # A chunk may have an extra field that is called like an error's.
        is_chunk = isinstance(body, dict) and "choices" in body and not body.get("error")
        if event.event == "error" or (not is_chunk and read_error(body) is not None):
            raise stream_error(body, self._request_id)
        try:
            chunk = Completion.model_validate(body)
        except ValidationError as error:
            raise self._bad(_first_line(error)) from error
        chunk._request_id = self._request_id
        return chunk

    def _bad(self, why: str) -> APIResponseValidationError:
        return APIResponseValidationError(
            f"the stream has an event that the API does not have: {why}",
            request_id=self._request_id,
        )


def _first_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
