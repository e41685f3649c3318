"""Threads for work on long texts, so that streams go on meanwhile. A few, and a bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from server.wire.errors import overloaded
from server.wire.limits import MAX_TEXT_THREADS, MAX_TEXTS_WAITING

T = TypeVar("T")


class TextWorkers:
    """Tokenizers run without holding the interpreter's lock, mostly."""

    def __init__(self, num_threads: int = MAX_TEXT_THREADS, max_waiting: int = MAX_TEXTS_WAITING):
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="text")
        self._max_texts = num_threads + max_waiting
        self._num_texts = 0

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises ApiError 503 when too many wait already."""
        if self._num_texts >= self._max_texts:
            raise overloaded()
        self._num_texts += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._finish)
        return await future

    def _finish(self, future: asyncio.Future[T]) -> None:
        self._num_texts -= 1
