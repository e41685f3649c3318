"""How many connections there may be, and who gives way: one that asks for nothing, or not yet.

Kept below what the operating system lets the process open, so that a flood of connections takes
neither the log's descriptors nor the engine's. And how much of their answers may wait to be read.
"""

from __future__ import annotations

import resource
from typing import Protocol

from server.wire.limits import MAX_UNREAD_BYTES

RESERVED_FILES = 32  # for everything else: the engine's pipe, logs, kernels, the event loop


class Connection(Protocol):
    @property
    def is_idle(self) -> bool:
        """Whether no request of it is being worked on."""

    @property
    def is_receiving(self) -> bool:
        """Whether its only request has not come whole."""

    def give_way(self) -> None:
        """Close, being idle or receiving."""

    @property
    def num_unread_bytes(self) -> int:
        """Of answers, not taken by the client yet."""

    def cut_off(self, why: str) -> None:
        """Close at once. Its requests end as when the client goes away."""


class Connections:
    """The open ones, those that were idle longest first."""

    def __init__(self, limit: int, max_unread_bytes: int = MAX_UNREAD_BYTES) -> None:
        self._limit = limit
        self._max_unread_bytes = max_unread_bytes
        self._open: dict[Connection, None] = {}
        self._slow: dict[Connection, None] = {}  # those whose clients do not keep up

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> bool:
        """Whether there is room for it. If need be the longest idle one gives way, or else the
        oldest whose request is still on its way: nothing was done for that, and it may never come.
        """
        if len(self._open) >= self._limit:
            other = next((one for one in self._open if one.is_idle), None)
            other = other or next((one for one in self._open if one.is_receiving), None)
            if other is None:
                return False
            self.remove(other)
            other.give_way()
        self._open[connection] = None
        return True

    def remove(self, connection: Connection) -> None:
        """May be called again."""
        self._open.pop(connection, None)
        self._slow.pop(connection, None)

    def used(self, connection: Connection) -> None:
        """A request of it has just been answered."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def stopped_reading(self, connection: Connection) -> None:
        """Answers wait for its client. Where those of all are too much, the largest are given up,
        but not this one's."""
        self._slow.pop(connection, None)
        sizes = {other: other.num_unread_bytes for other in self._slow}
        excess = sum(sizes.values()) + connection.num_unread_bytes - self._max_unread_bytes
        self._slow[connection] = None
        while excess > 0 and sizes:
            largest = max(sizes, key=lambda other: sizes[other])
            excess -= sizes.pop(largest)
            self.reads_again(largest)
            largest.cut_off("too many answers wait to be read, and it has the largest")

    def reads_again(self, connection: Connection) -> None:
        self._slow.pop(connection, None)


def affordable_connections(wanted: int) -> int:
    """`wanted`, or as many as files may be open, after asking the system for so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(min(wanted, soft - RESERVED_FILES), 1)
