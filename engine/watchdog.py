"""Notices an engine process that is alive and does nothing: suspended, deadlocked, in a loop.

A process that has been silent is asked for a sign between two steps. Standard library only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Parts of the timeout after which it is looked. After one of silence the process is asked.
_NUM_LOOKS = 10


class Watchdog:
    """Calls `on_hang` once when nothing was heard for `timeout` seconds, though `ask` was called.

    What counts is the time that this process could listen: if it was suspended itself, it must not
    blame the other.
    """

    def __init__(
        self, timeout: float, ask: Callable[[], None], on_hang: Callable[[], None]
    ) -> None:
        self._interval = timeout / _NUM_LOOKS
        self._ask = ask
        self._on_hang = on_hang
        self._num_silent = 0  # looks in a row between which nothing was heard
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._num_silent = 0
        self._set_timer()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hear(self) -> None:
        """The process has said something."""
        self._num_silent = 0

    def _look(self) -> None:
        self._num_silent += 1
        if self._num_silent > _NUM_LOOKS:
            self._timer = None
            self._on_hang()
            return
        if self._num_silent == 1:
            self._ask()
        self._set_timer()

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)
