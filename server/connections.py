"""How many connections there may be, and who gives way: one that asks for nothing.

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

    def give_way(self) -> None:
        """Close, being idle."""


class Connections:
    """The open ones, those that were idle longest first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> bool:
        """Whether there is room for it. If need be the longest idle one gives way."""
        if len(self._open) >= self._limit:
            idle = next((other for other in self._open if other.is_idle), None)
            if idle is None:
                return False
            self.remove(idle)
            idle.give_way()
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
