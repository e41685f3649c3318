"""How many connections there may be, and who gives way: one that asks for nothing, or not yet.

Kept below what the operating system lets the process open, so that a flood of connections takes
neither the log's descriptors nor the engine's.
"""

from __future__ import annotations

import resource
from typing import Protocol

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


class Connections:
    """The open ones, those that were idle longest first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[Connection, None] = {}

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

    def used(self, connection: Connection) -> None:
        """A request of it has just been answered."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None


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
