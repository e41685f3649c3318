"""Threads for work on long texts, so that streams go on meanwhile. A few, and a bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from server.fair_slots import FairSlots
from server.tenants import Tenant
from server.wire.limits import MAX_TEXT_THREADS, MAX_TEXTS_WAITING

T = TypeVar("T")


class TextWorkers:
    """Tokenizers run without holding the interpreter's lock, mostly."""

    def __init__(self, num_threads: int = MAX_TEXT_THREADS, max_waiting: int = MAX_TEXTS_WAITING):
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="text")
        self._slots = FairSlots(num_threads, max_waiting)

    @property
    def num_texts(self) -> int:
        """Texts that are worked on, and those that wait."""
        return self._slots.num_open

    async def run(self, tenant: Tenant, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises ApiError 503 when too many texts wait already.

        What has begun has its thread to its end, also when nobody waits for it any more: a thread
        cannot be stopped.
        """
        await self._slots.take(tenant.name)
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(lambda _: self._slots.free())
        return await asyncio.shield(future)

    def close(self) -> None:
        """Drop what has not begun, and wait for nothing."""
        self._slots.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
