"""So many at a time, and a bounded number that waits: tenants by turns, each in its own order.

Who comes to a full queue with less in it than others pushes out the newest of the one with most, as
in the queue of requests. Knows nothing of the work.
"""

from __future__ import annotations

import asyncio
from collections import deque

from server.wire.errors import overloaded


class FairSlots:
    """`num_slots` may be taken at a time, `max_waiting` may wait for one. For one event loop."""

    def __init__(self, num_slots: int, max_waiting: int) -> None:
        self._num_slots = self._num_free = num_slots
        self._max_waiting = max_waiting
        # By tenant, the next one first.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def num_open(self) -> int:
        """Those that are taken, and those who wait."""
        return self._num_slots - self._num_free + sum(map(len, self._waiting.values()))

    async def take(self, tenant: str) -> None:
        """Wait for a slot, to be given back by `free`. Raises ApiError 503 when too many wait."""
        if self._num_free:
            self._num_free -= 1
            return
        self._make_room(tenant)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(tenant, turn)
            elif turn.exception() is None:
                self.free()  # its turn came together with its end
            raise

    def free(self) -> None:
        """A slot is free: the next one that waits has it."""
        while self._waiting:
            tenant = next(iter(self._waiting))
            turns = self._waiting.pop(tenant)
            turn = turns.popleft()
            if turns:
                self._waiting[tenant] = turns  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._num_free += 1

    def close(self) -> None:
        """Cancel all who wait."""
        for turns in self._waiting.values():
            for turn in turns:
                turn.cancel()

    def _make_room(self, tenant: str) -> None:
        counts = {name: len(turns) for name, turns in self._waiting.items()}
        if sum(counts.values()) < self._max_waiting:
            return
        largest = max(counts, key=lambda name: counts[name], default=tenant)
        if counts.get(largest, 0) <= counts.get(tenant, 0) + 1:
            raise overloaded()
        newest = self._waiting[largest].pop()
        if not newest.done():
            newest.set_exception(overloaded())

    def _forget(self, tenant: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(tenant)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[tenant]
