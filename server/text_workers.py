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
        self.num_texts = 0

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises ApiError 503 when too many wait already.

        It is done, and counted, also when nobody waits for it any more: a thread cannot be stopped,
        and the text of a task that was taken back would stay in the queue, uncounted.
        """
        if self.num_texts >= self._max_texts:
            raise overloaded()
        self.num_texts += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._finish)
        return await asyncio.shield(future)

    def close(self) -> None:
        """Drop what has not begun, and wait for nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _finish(self, future: asyncio.Future[T]) -> None:
        self.num_texts -= 1
