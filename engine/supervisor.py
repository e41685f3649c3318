"""Keeps one engine process alive: starts it, starts it again when it dies or hangs.

An unexpected end is told at once; the next process follows after a pause that doubles from 0.1 s
to 10 s. After too many ends in a row it gives up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from engine.child import EngineChild
from engine.config import EngineConfig
from engine.errors import EngineDeadError, EngineStartError
from engine.info import EngineInfo
from engine.messages import FromEngine, ToEngine

logger = logging.getLogger("octavo.engine")


class Backoff:
    """Pauses between starts, in seconds: doubling while starts keep failing, then constant."""

    FIRST = 0.1
    LONGEST = 10.0
    # An engine that was up for this long is taken to be sound: the next pause is the first again.
    HEALTHY_AFTER = 60.0
    # So many ends in a row, none of them after health: another start will not help.
    MOST_ENDS = 10

    def __init__(self) -> None:
        self._next = self.FIRST
        self._num_ends = 0

    def pause(self, seconds_up: float) -> float:
        """The pause before the next start, after a process that was ready for `seconds_up`.

        Raises EngineDeadError when there should be no other.
        """
        if seconds_up >= self.HEALTHY_AFTER:
            self._next = self.FIRST
            self._num_ends = 0
        self._num_ends += 1
        if self._num_ends >= self.MOST_ENDS:
            raise EngineDeadError(
                f"the engine process stopped {self._num_ends} times in a row, at most "
                f"{self.HEALTHY_AFTER:.0f} s after it was ready; the log says how each time"
            )
        pause = self._next
        self._next = min(2 * pause, self.LONGEST)
        return pause


class Supervisor:
    """One engine process after the other, until `close`.

    `on_message` gets what a ready engine says, `on_death` the way it ended, unasked, in words, and
    `on_return` follows when another one of the same model is ready, or `on_give_up`. `num_restarts`
    counts the returns, `num_failed_starts` those that came to nothing, `num_hangs` the processes
    that were ended because they did nothing, loading ones too.
    """

    def __init__(
        self,
        config: EngineConfig,
        module: str,
        on_message: Callable[[FromEngine], None],
        on_death: Callable[[str], None],
        on_progress: Callable[[str, float], None] | None = None,
        *,
        on_return: Callable[[EngineInfo], None] = lambda info: None,
        on_give_up: Callable[[str], None] = lambda failure: None,
    ) -> None:
        self._config = config
        self._module = module
        self._on_message = on_message
        self._on_death = on_death
        self._on_progress = on_progress
        self._on_return = on_return
        self._on_give_up = on_give_up
        self._child: EngineChild | None = None
        self._watch: asyncio.Task[None] | None = None
        self._first_info: EngineInfo | None = None
        self._is_closed = False
        self.num_restarts = 0
        self.num_failed_starts = 0
        self.num_hangs = 0

    @property
    def is_ready(self) -> bool:
        return self._child is not None and self._child.is_ready

    @property
    def pid(self) -> int | None:
        """The engine process of the moment."""
        return self._child.pid if self._child is not None else None

    @property
    def num_unsent_bytes(self) -> int:
        return self._child.channel.num_unsent_bytes if self._child is not None else 0

    def send(self, message: ToEngine) -> None:
        """Hand over a message without waiting. Lost if the engine dies, which `on_death` tells."""
        assert self._child is not None, "send before start"
        self._child.channel.send(message)

    async def start(self) -> EngineInfo:
        """The first start, which must succeed. Raises EngineStartError, nothing being left over."""
        assert self._child is None, "started before"
        self._first_info = info = await self._launch()
        self._watch = asyncio.create_task(self._keep_alive(), name="engine supervisor")
        return info

    async def wait_given_up(self) -> None:
        """Wait for ever, or raise EngineDeadError when no other process is started any more."""
        assert self._watch is not None, "nothing is watched before the start"
        await asyncio.wait([self._watch])
        if not self._watch.cancelled():
            self._watch.result()

    async def close(self) -> None:
        """End the process and stop watching. May be called at any time, and again."""
        self._is_closed = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        if self._child is not None:
            await self._child.stop()

    async def _launch(self) -> EngineInfo:
        child = await EngineChild.start(
            self._module, self._config, self._on_message, self._on_progress, self._first_info
        )
        self._child = child
        logger.info("engine process %d started", child.pid)
        try:
            if self._is_closed:
                await child.stop()
            info = await child.wait_ready()
            if self._is_closed:  # just when it came up
                raise EngineStartError("the engine was shut down while it was starting")
        except asyncio.CancelledError:
            await child.stop()
            raise
        finally:
            self.num_hangs += child.is_hung
        logger.info("engine process %d ready after %.1f s", child.pid, info.load_seconds)
        return info

    async def _keep_alive(self) -> None:
        backoff = Backoff()
        while True:
            assert self._child is not None
            ready_since = time.monotonic()
            ending = await self._child.wait_down()
            self.num_hangs += self._child.is_hung
            seconds_up = time.monotonic() - ready_since
            logger.error(
                "engine process %d stopped unexpectedly (%s): %s",
                self._child.pid,
                ending,
                self._child.complaint or "it did not say why",
            )
            self._on_death(ending)
            await self._child.stop()
            await self._restart(backoff, seconds_up)

    async def _restart(self, backoff: Backoff, seconds_up: float) -> None:
        while True:
            try:
                pause = backoff.pause(seconds_up)
            except EngineDeadError as error:
                self._on_give_up(str(error))
                raise
            logger.info("the engine is started again in %.1f s", pause)
            await asyncio.sleep(pause)
            try:
                info = await self._launch()
            except EngineStartError as error:
                logger.error("the engine could not be started again: %s", error)
                self.num_failed_starts += 1
                seconds_up = 0.0
            else:
                self.num_restarts += 1
                self._on_return(info)
                return
