"""What came over HTTP beside the result: what `with_raw_response` returns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

import httpx

from octavo_client._envelope import request_id_of

T = TypeVar("T")


class RawResponse(Generic[T]):
    """A successful answer: its headers and bytes, and the result in it by `parse()`.

    The result of a streamed completion is its stream, whose bytes are read by it alone.
    """

    def __init__(
        self,
        http_response: httpx.Response,
        parse: Callable[[httpx.Response], T],
        num_attempts: int,
    ) -> None:
        self.http_response = http_response
        self.retries_taken = num_attempts - 1
        self._parse = parse
        self._parsed: T | None = None

    def parse(self) -> T:
        """The result, the same one each time; `APIResponseValidationError` if it is none."""
        if self._parsed is None:
            self._parsed = self._parse(self.http_response)
        return self._parsed

    @property
    def headers(self) -> httpx.Headers:
        return self.http_response.headers

    @property
    def status_code(self) -> int:
        return self.http_response.status_code

    @property
    def request_id(self) -> str | None:
        return request_id_of(self.http_response)

    @property
    def http_request(self) -> httpx.Request:
        return self.http_response.request

    @property
    def method(self) -> str:
        return self.http_request.method

    @property
    def url(self) -> httpx.URL:
        return self.http_request.url

    @property
    def elapsed(self) -> timedelta:
        return self.http_response.elapsed

    @property
    def content(self) -> bytes:
        return self.http_response.content

    @property
    def text(self) -> str:
        return self.http_response.text

    def json(self) -> Any:
        return self.http_response.json()
