"""Log lines written by a thread of their own, so that no step waits for the reader of a log.

A full disk or a terminal that stands still costs lines, never time. Standard library only.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler
from typing import TextIO

MAX_WAITING_LINES = 1000
LAST_WORDS_SECONDS = 1.0  # for what waits at the end


class _Lines(QueueHandler):
    """Hands finished lines to the thread; drops those that find no room."""

    def prepare(self, record: logging.LogRecord) -> str:
        return self.format(record)

    def enqueue(self, line: object) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(line)


@contextmanager
def logging_in_background(stream: TextIO, form: str) -> Iterator[None]:
    """Log from level INFO on to `stream`, in the form of logging's `%` style, until the end of the
    block, when what waits has been written, if somebody reads it."""
    waiting: queue.Queue[str | None] = queue.Queue(MAX_WAITING_LINES)
    lines = _Lines(waiting)
    lines.setFormatter(logging.Formatter(form))
    writer = threading.Thread(target=_write, args=[waiting, stream], name="log", daemon=True)
    writer.start()
    root = logging.getLogger()
    level_before = root.level
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(lines)
        root.setLevel(level_before)
        with suppress(queue.Full):
            waiting.put_nowait(None)
            writer.join(LAST_WORDS_SECONDS)


def _write(waiting: queue.Queue[str | None], stream: TextIO) -> None:
    while (line := waiting.get()) is not None:
        with suppress(OSError, ValueError):  # there is nowhere to say so
            stream.write(f"{line}\n")
            stream.flush()
