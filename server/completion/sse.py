"""A completion as a stream of server-sent events.

The headers wait for the first output, so that a refusal is a real HTTP status; a comment every few
seconds of silence keeps proxies from cutting the stream. After the headers an error is an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import closing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine import EngineDeadError, SlowReaderError
from server.completion.chunks import DONE, ChunkWriter
from server.completion.completion import Completion
from server.disconnect import unless_disconnected
from server.observe.record import RequestRecord, record_of
from server.wire.errors import ApiError, api_error

logger = logging.getLogger(__name__)

_KEEP_ALIVE = ": keep-alive\n\n"


class EventStream(Response):
    """Runs the completion while it is sent; ends it when the client goes away."""

    def __init__(
        self,
        completion: Completion,
        writer: ChunkWriter,
        *,
        include_usage: bool,
        continuous_usage: bool,
        keep_alive_seconds: float,
        headers: Mapping[str, str],
    ) -> None:
        """`headers` come on top of those of every stream."""
        self.status_code = 200
        self.media_type = "text/event-stream"
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})
        self._completion = completion
        self._writer = writer
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._keep_alive_seconds = keep_alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._record = record_of(scope)
        await unless_disconnected(receive, self._run(send))

    async def _run(self, send: Send) -> None:
        silence = SilenceTimer(self._keep_alive_seconds, self._completion.interrupt)
        with closing(silence):
            async with self._completion:
                events = await self._next_events()  # an error here is answered with a status
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                end = DONE
                while events:
                    await send(_body(events, more=True))
                    silence.end()
                    try:
                        events = await self._next_events()
                    except Exception as exc:
                        end = _error_event(exc, self._record) + DONE
                        break
                await send(_body(end, more=False))

    async def _next_events(self) -> str:
        """What has come since the last time, as events. "" after the end."""
        try:
            pieces = await anext(self._completion)
        except TimeoutError:
            return _KEEP_ALIVE
        except StopAsyncIteration:
            return self._take_usage_event()
        usage = None
        if self._continuous_usage:
            usage = self._completion.usage.json()
        elif self._include_usage:
            usage = "null"
        return "".join([self._writer.event(piece, usage) for piece in pieces])

    def _take_usage_event(self) -> str:
        if not self._include_usage:
            return ""
        self._include_usage = False
        return self._writer.usage_event(self._completion.usage.json())


class SilenceTimer:
    """Calls `on_silence` whenever `seconds` have passed without a call of `end`.

    `end` is called for every event and only reads the clock: a timer of the event loop is set when
    the last one has gone off, not each time.
    """

    def __init__(self, seconds: float, on_silence: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._on_silence = on_silence
        self._since = self._loop.time()
        self._timer = self._loop.call_later(seconds, self._look)

    def end(self) -> None:
        """The silence is over; the next one begins."""
        self._since = self._loop.time()

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._since + self._seconds:
            self._since = now
            self._on_silence()
        self._timer = self._loop.call_at(self._since + self._seconds, self._look)


def _error_event(exc: Exception, record: RequestRecord | None) -> str:
    if not isinstance(exc, ApiError | EngineDeadError | SlowReaderError):
        logger.error("A stream failed", exc_info=exc)
    error = api_error(exc)
    if record is not None:
        record.fail(error.type, error.code)
    return f"data: {error.envelope()}\n\n"


def _body(text: str, *, more: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": text.encode("ascii"), "more_body": more}
