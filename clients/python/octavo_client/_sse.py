"""Server-sent events out of bytes, as the WHATWG standard parses them. Does no input or output.

Knows nothing of JSON or of what the events mean.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSentEvent:
    """One event: its name ("message" if it has none) and its data lines joined by newlines."""

    data: str
    event: str = "message"


class EventTooLongError(ValueError):
    """An event is longer than the decoder's bound."""


class SSEDecoder:
    """Takes the bytes of a stream as they come and gives the events that they complete.

    Lines may end in LF, CR or CRLF, wherever the pieces are cut. An event that the stream's end
    leaves unfinished is no event, so there is nothing to ask for at the end.
    """

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()
        self._data: list[str] = []
        self._event = ""
        self._num_bytes = 0
        self._at_start = True
        self._after_cr = False

    def feed(self, piece: bytes) -> list[ServerSentEvent]:
        """The events that `piece` completes; `EventTooLongError` past the bound."""
        events = []
        if piece and self._after_cr:
            # A CR has ended the last line already; the LF of the same CRLF must not end another.
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr |= piece.endswith(b"\r")
        for part in piece.splitlines(keepends=True):
            line = part.rstrip(b"\r\n")
            self._num_bytes += len(line) + (len(part) > len(line))  # a CRLF is one, cut or whole
            if self._num_bytes > self._max_event_bytes:
                raise EventTooLongError(f"an event is longer than {self._max_event_bytes} bytes")
            self._line += line
            if len(part) > len(line):
                event = self._take_line()
                if event is not None:
                    events.append(event)
        return events

    def _take_line(self) -> ServerSentEvent | None:
        line = self._line.decode("utf-8", errors="replace")
        self._line.clear()
        if self._at_start:
            line = line.removeprefix("\ufeff")
            self._at_start = False
        if not line:
            return self._take_event()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "error":
            # Not of the standard: how llama.cpp told of errors in its first year of streams.
            self._event = "error"
            self._data.append(value)
        # A comment has no name; `id` and `retry` are for clients that connect again.
        return None

    def _take_event(self) -> ServerSentEvent | None:
        data, name = self._data, self._event
        self._data, self._event, self._num_bytes = [], "", 0
        return ServerSentEvent("\n".join(data), name or "message") if data else None
