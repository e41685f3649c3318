"""One HTTP/1.1 exchange after the other on a connection, the answer handed on as it arrives.

As small as it can be: the load generator shares the machine with the server it measures, and
httpx takes ten times as long for a streamed token. Knows no JSON and no events; uses no proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MAX_HEAD_BYTES = 64 * 1024
MAX_CHUNK_BYTES = 64 * 1024 * 1024
_NO_BODY = {204, 304}


class ExchangeError(Exception):
    """There is no whole answer; one line that says why."""


class ResponseParser:
    """One HTTP response out of bytes. Does no input or output.

    `status` is None until the head is whole. `keeps_alive` tells, once `is_done`, whether the
    connection can be used again.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.is_done = False
        self.keeps_alive = False
        self._rest = b""
        self._is_chunked = False
        self._num_left: int | None = None  # of a body with a length

    def feed(self, data: bytes) -> bytes:
        """The part of the body that `data` completes. Raises ExchangeError."""
        if self.status is None:
            data = self._take_head(self._rest + data)
            if self.status is None:
                return b""
        if self._is_chunked:
            return self._take_chunks(data)
        if self._num_left is None:
            return data
        if len(data) > self._num_left:
            raise ExchangeError("the answer is longer than its Content-Length")
        self._num_left -= len(data)
        self.is_done = self._num_left == 0
        return data

    def end(self) -> None:
        """The connection was closed. Raises ExchangeError if that cuts the answer short."""
        if self.status is None:
            raise ExchangeError("the connection was closed without an answer")
        if not self.is_done and (self._is_chunked or self._num_left is not None):
            raise ExchangeError("the connection was closed in the middle of the answer")
        self.is_done, self.keeps_alive = True, False

    def _take_head(self, data: bytes) -> bytes:
        """Read the head if it is whole; what follows it."""
        head, blank, body = data.partition(b"\r\n\r\n")
        if not blank:
            if len(data) > MAX_HEAD_BYTES:
                raise ExchangeError("the head of the answer does not end")
            self._rest = data
            return b""
        self._rest = b""
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = status_line.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise ExchangeError(f"this is not HTTP: {status_line[:100]!r}")
        status = int(rest[:3])
        if status < 200:  # an interim answer; the real one follows
            return self._take_head(body)
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self.status = status
        self.keeps_alive = (
            version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
        )
        self._is_chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = "0" if status in _NO_BODY else headers.get("content-length")
        if not self._is_chunked and length is not None:
            if not length.isdigit():
                raise ExchangeError(f"Content-Length is {length[:100]!r}")
            self._num_left = int(length)
            self.is_done = self._num_left == 0
        return body

    def _take_chunks(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
        body = []
        at = 0
        while (line_end := data.find(b"\r\n", at)) >= 0:
            try:
                size = int(data[at:line_end].partition(b";")[0], 16)
            except ValueError:
                raise ExchangeError("the answer is not chunked as it says") from None
            if not 0 <= size <= MAX_CHUNK_BYTES:
                raise ExchangeError(f"the answer has a chunk of {size} bytes")
            end = line_end + 2 + size
            if size == 0:
                # Then trailers, which nobody reads here, and a blank line.
                if (blank := data.find(b"\r\n\r\n", line_end)) >= 0:
                    self.is_done, at = True, blank + 4
                break
            if len(data) < end + 2:
                break
            body.append(data[line_end + 2 : end])
            at = end + 2
        self._rest = data[at:]
        return b"".join(body)


class Connection(asyncio.Protocol):
    """A connection to the server. Use `post` for one exchange at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport
        self._parser: ResponseParser | None = None
        self._on_body: Callable[[int, bytes], None]
        self._done: asyncio.Future[None]

    @property
    def has_answer(self) -> bool:
        """Whether the exchange under way has an answer, or the beginning of one."""
        return self._parser is not None and self._parser.status is not None

    async def post(self, request: bytes, on_body: Callable[[int, bytes], None]) -> None:
        """Send `request` and wait until its answer is whole.

        `on_body(status, piece)` gets the body as it comes; what it raises is raised here and
        closes the connection, as giving up the wait does. Raises ExchangeError.
        """
        assert self._parser is None, "one exchange at a time"
        self._parser = ResponseParser()
        self._on_body = on_body
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._done
        except BaseException:
            self.close()
            raise
        keeps_alive = self._parser.keeps_alive
        self._parser = None
        if not keeps_alive:
            self.close()

    def close(self) -> None:
        """Safe to call more than once."""
        self.is_open = False
        self._transport.abort()

    # For the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or parser.is_done or self._done.done():
            self.close()  # nobody asked
            return
        try:
            body = parser.feed(data)
            if body and parser.status is not None:
                self._on_body(parser.status, body)
        except Exception as error:
            self._done.set_exception(error)
            return
        if parser.is_done:
            self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._parser is None or self._done.done():
            return
        try:
            if error is not None:
                raise ExchangeError(f"the connection was lost: {error}")
            self._parser.end()
        except ExchangeError as failure:
            self._done.set_exception(failure)
        else:
            self._done.set_result(None)
