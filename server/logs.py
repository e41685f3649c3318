"""Where log lines go and what they look like: JSON for machines, text for people.

Whatever is in a message, it is one line and cannot look like another: control characters are
escaped. Writing happens in a thread, so that a reader of the log that stops, or a full disk, never
stops the server; lines that find no room are dropped.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["auto", "json", "console"]

MAX_WAITING_LINES = 10_000
LAST_WORDS_SECONDS = 2.0  # for what waits at the end

# Asked again and again by machines, whom nobody wants to read of.
_PROBES = frozenset(("/health", "/livez", "/readyz", "/ping", "/metrics"))

# C0 and C1 controls, the line and paragraph separators, and what changes the direction of text.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """`text` with everything escaped that a terminal or a reader of lines would act upon."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class ConsoleFormatter(logging.Formatter):
    """`time level logger: message`; each line of a traceback stands behind a bar."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S")
        head = f"{moment} {record.levelname} {record.name}: {one_line(record.getMessage())}"
        return "\n  | ".join([head, *map(one_line, _traceback(self, record).splitlines())])


class JsonFormatter(logging.Formatter):
    """One JSON object in ASCII: `ts`, `level`, `event`, and what the event brought in `fields`,
    or `logger` and `message`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
        }
        fields = getattr(record, "fields", None)
        if fields is None:
            line |= {"logger": record.name, "message": record.getMessage()}
        else:
            line |= fields
        traceback = _traceback(self, record)
        if traceback:
            line["traceback"] = traceback
        return json.dumps(line, default=str)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def is_no_probe(record: logging.LogRecord) -> bool:
    """False for the lines of uvicorn's access log that tell of probes and scrapes."""
    if record.name != "uvicorn.access" or not isinstance(record.args, tuple):
        return True
    path = record.args[2] if len(record.args) > 2 else None  # client, method, path, ...
    return not isinstance(path, str) or path.partition("?")[0] not in _PROBES


class _Lines(logging.Handler):
    """Hands finished lines to the thread that writes them.

    Formatted here: what a record refers to may have changed when the thread comes to it.
    """

    def __init__(self, lines: queue.Queue[str | None]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            pass
        except Exception:
            self.handleError(record)


class _Writer(threading.Thread):
    """Writes lines until it gets None."""

    def __init__(self, lines: queue.Queue[str | None], stream: TextIO) -> None:
        super().__init__(name="log writer", daemon=True)
        self._lines = lines
        self._stream = stream

    def run(self) -> None:
        while (line := self._lines.get()) is not None:
            # A line that cannot be written is lost; there is nowhere to say so.
            with suppress(OSError, ValueError):
                self._stream.write(f"{line}\n")
                self._stream.flush()

    def finish(self) -> None:
        """Have what waits written, if somebody reads it."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
            self.join(LAST_WORDS_SECONDS)


@contextmanager
def logging_to(log_format: LogFormat, level: str) -> Iterator[None]:
    """Log as asked until the end of the block, when what waits has been written.

    JSON goes to standard output, where nothing else is written; text to standard error. "auto" is
    text if standard error is a terminal, and JSON otherwise.
    """
    if log_format == "auto":
        log_format = "console" if sys.stderr.isatty() else "json"
    stream = sys.stdout if log_format == "json" else sys.stderr
    waiting: queue.Queue[str | None] = queue.Queue(MAX_WAITING_LINES)
    lines = _Lines(waiting)
    lines.addFilter(is_no_probe)
    lines.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    writer = _Writer(waiting, stream)
    root = logging.getLogger()
    level_before = root.level
    root.addHandler(lines)
    root.setLevel(level.upper())
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(lines)
        root.setLevel(level_before)
        writer.finish()
