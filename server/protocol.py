"""HTTP/1.1 as it arrives: uvicorn's protocol, with the bounds that it and its parser do not have.

What is refused here never reaches the application. Knows nothing of the API; answers pass through
uvicorn untouched, so none of this costs a streamed token anything.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from server.answer_framing import AnswerTransport, CloseDelimited
from server.boundary import request_id_of
from server.connections import Connections
from server.disconnect import note_refusal, refusal_of
from server.hosts import AllowedHosts
from server.listen import notice_absence
from server.observe.observer import Observer
from server.stall_watch import StallWatch
from server.wire.errors import ApiError
from server.wire.head import (
    check_head,
    headers_too_large,
    invalid_http,
    receive_timeout,
    too_many_connections,
    url_too_long,
    wrong_host,
)
from server.wire.limits import (
    LINGER_SECONDS,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    MAX_READ_AHEAD,
    MAX_URL_BYTES,
)

logger = logging.getLogger(__name__)


class HttpProtocol(HttpToolsProtocol):
    """One connection. Its methods are called by the event loop and, `on_...`, by the parser.

    `receive_deadline`: seconds from the first byte of a request to its last, and from the opening
    of the connection to the first byte. `stall_timeout`: seconds in which a client with more than a
    buffer full of answers outstanding has to take as much as that.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        open_connections: Connections,
        hosts: AllowedHosts,
        observer: Observer | None,
        receive_deadline: float,
        stall_timeout: float,
    ) -> None:
        """`observer` is told of what is refused here."""
        super().__init__(config, server_state, app_state, _loop)
        self._open_connections = open_connections
        self._hosts = hosts
        self._observer = observer
        self._stall_timeout = stall_timeout
        self._stall = StallWatch(self, self.loop, stall_timeout)
        self._receive_deadline = receive_deadline
        self._deadline: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None  # not the newest when several wait
        self._is_ending = False
        self._is_lingering = False
        self._is_in_head = False
        self._is_head_complete = False
        self._num_headers = 0
        self._num_header_bytes = 0
        # What the parser keeps to itself, because a header has not ended yet; see `data_received`.
        self._num_pending_bytes = 0

    # Called by the event loop.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._open_connections.add(self):
            self._is_ending = True
            self._write_refusal(too_many_connections(), self._unread_scope())
            transport.close()  # without lingering: what is to be saved is open connections
            return
        # Twice: the system's own end of it is for what is left when we have closed our side.
        notice_absence(transport.get_extra_info("socket"), 2 * self._stall_timeout)
        self._close_after(self._receive_deadline)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_connections.remove(self)
        self._end_deadline()
        self._stall.end()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True  # uvicorn tells the newest only
            self._answering.message_event.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.begin()
        self._open_connections.stopped_reading(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.end()
        self._open_connections.reads_again(self)

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            return
        self._unset_keepalive_if_required()
        self._begin_deadline()
        # Each callback sets it to 0: only pieces count that bring nothing to an end.
        self._num_pending_bytes += len(data)
        try:
            self._parse(data)
            if self._num_header_bytes + self._num_pending_bytes > MAX_HEADER_BYTES:
                raise headers_too_large()
        except ApiError as exc:
            self._refuse(exc)
        except httptools.HttpParserError as exc:
            # What a callback raises comes as the context of the parser's own error.
            cause = exc.__context__
            self._refuse(cause if isinstance(cause, ApiError) else invalid_http())

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            # An ordinary request for us, but this parser would not read its body.
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(head)

    # Called by the parser.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._begin_deadline()
        self._is_in_head = True
        self._is_head_complete = False
        self._num_headers = self._num_header_bytes = self._num_pending_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._num_pending_bytes = 0
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            raise url_too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_pending_bytes = 0
        self._num_headers += 1
        self._num_header_bytes += len(name) + len(value)
        if self._num_headers > MAX_HEADERS or self._num_header_bytes > MAX_HEADER_BYTES:
            raise headers_too_large()
        if not self._is_head_complete:  # else it follows a chunked body and means nothing to us
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise invalid_http("This server is no proxy.")
            return  # the head comes again, see `_parse`
        host = check_head(self.parser.get_http_version(), self.headers)
        if host is not None and not self._hosts.allows(host):
            raise wrong_host(host)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise invalid_http("Too many requests were sent before the answer to the first.")
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= MAX_READ_AHEAD:
            self.flow.resume_reading()  # uvicorn does not, and would not see the client leave
        self._is_in_head = False
        self._is_head_complete = True
        self._num_pending_bytes = 0
        answer_transport = AnswerTransport(self.transport, self._close_after_answer)
        self.cycle.transport = cast("asyncio.Transport", answer_transport)
        if self.expect_100_continue:
            # Its body may never come, once the client has an answer instead of a 100.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._num_pending_bytes = 0
        super().on_body(body)  # drops it if the request has been answered

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._num_pending_bytes = 0
        self._end_deadline()
        self.cycle.more_body = False
        if not self.parser.should_keep_alive():  # also by a trailer
            self.cycle.keep_alive = False
        if self.cycle.response_complete:  # the body came after the answer, without need
            self._close_after(self.timeout_keep_alive)

    # Called by uvicorn.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if cycle.scope["http_version"] == "1.0":
            app = CloseDelimited(cycle, app)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._open_connections.used(self)

    def _close_after_answer(self) -> None:
        if self.cycle.more_body and not self.transport.is_closing():
            self._linger()
        else:
            self.transport.close()

    # Called by the other connections and by the watch over a slow reader.

    @property
    def is_idle(self) -> bool:
        has_request = self.cycle is not None and not self.cycle.response_complete
        return self._is_lingering or not (self._is_ending or has_request)

    @property
    def is_receiving(self) -> bool:
        is_one = self.cycle is not None and not self.pipeline
        return is_one and self.cycle.more_body and not self.cycle.response_started

    def give_way(self) -> None:
        if self.is_idle:
            self.transport.abort()
        else:
            self._refuse(too_many_connections())
            self.transport.close()

    @property
    def num_unread_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def cut_off(self, why: str) -> None:
        logger.info("a client was cut off: %s", why)
        self.transport.abort()

    # Deadlines and refusals.

    def _begin_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._receive_deadline, self._miss_deadline)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _miss_deadline(self) -> None:
        self._deadline = None
        if self.pipeline or self.flow.read_paused:
            self._begin_deadline()  # it is us who do not read, while earlier requests are answered
        else:
            self._refuse(receive_timeout(self._receive_deadline))

    def _close_after(self, seconds: float) -> None:
        """Close the connection unless data comes before."""
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _refuse(self, error: ApiError) -> None:
        """Read no more, answer what was being received with `error` if it can be, and close."""
        self._is_ending = True
        self._end_deadline()
        if self.transport.is_closing():
            return
        newest = self.cycle
        scope = self._unread_scope()
        if newest is not None and newest.more_body:  # it is this one that was being received
            if self.pipeline or newest.response_started:
                self.transport.close()
                return
            scope = cast("Scope", newest.scope)
            note_refusal(scope, error)
            newest.disconnected = True  # its handler waits for a body that never comes
            newest.waiting_for_100_continue = False
            newest.message_event.set()
        elif newest is not None and not newest.response_complete:
            newest.keep_alive = False  # it is answered, and then the connection closed
            return
        self._write_refusal(error, scope)
        self._linger()

    def _head_without_upgrade(self) -> bytes:
        """The head that was parsed last, as if its client did not ask for another protocol.

        Clients may ask with any request (Java's do with each), and we may ignore it: RFC 9110, 7.8.
        """
        version = self.parser.get_http_version().encode("ascii")
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))

    def _unread_scope(self) -> Scope:
        """Of a request that has not come to the application, with what is known of it."""
        # The parser says DELETE when it has seen no method.
        has_method = self._is_in_head and self.url
        return {
            "type": "http",
            "method": self.parser.get_method().decode("ascii") if has_method else "",
            "headers": self.headers if self._is_in_head else [],
            "client": self.client,
        }

    def _write_refusal(self, error: ApiError, scope: Scope) -> None:
        request_id = request_id_of(scope)
        logger.debug("%s refused: %s", request_id, error)
        if refusal_of(scope) is None and self._observer is not None:
            with self._observer.request(scope, request_id) as record:
                record.status = error.status
                record.fail(error.type, error.code)
        response = error.response()
        headers = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (b"x-request-id", request_id.encode("ascii")),
            (b"request-id", request_id.encode("ascii")),
        ]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        body = b"" if scope["method"] == "HEAD" else response.body
        self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[error.status], head, body))

    def _linger(self) -> None:
        """Send no more, drop what comes, and close soon, or when the client does.

        Closed at once, with bytes of the client's unread, the connection would be reset, and the
        answer might be lost with it.
        """
        self._is_ending = self._is_lingering = True
        self.pipeline.clear()
        self._end_deadline()
        self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
